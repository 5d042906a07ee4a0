#!/usr/bin/env bash
# A Slurm of one node with as many CPUs, and GPUs that are none, as asked, for tests. In Debian: slurmctld slurmd slurm-client munge.
#   slurm.sh up FOLDER CPUS     then, for sbatch and the others: export SLURM_CONF=FOLDER/slurm.conf
#   slurm.sh down FOLDER        cancels all jobs and waits for every process to end
# Jobs of the partition `urgent` preempt those of `main`, which is the default.
# Jobs that have ended are listed for two hours, not five minutes: tests count them.
set -euo pipefail
FOLDER=$(readlink -m "$2")
export SLURM_CONF=$FOLDER/slurm.conf PATH=$PATH:/usr/sbin:/sbin

free_ports() {
    python3 - "$1" <<'PYTHON'
import socket, sys
found = [socket.socket() for _ in range(int(sys.argv[1]))]
for each in found:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in found))
PYTHON
}

up() {
    mkdir -p "$FOLDER"/{state,spool}
    read -r controller node < <(free_ports 2)
    cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$FOLDER/munge.socket
CredType=cred/munge
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=0,bf_interval=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MinJobAge=7200
ReturnToService=2
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 CPUs=$1 RealMemory=65536 Gres=gpu:$1
PartitionName=main Nodes=localhost Default=YES PriorityTier=1
PartitionName=urgent Nodes=localhost PriorityTier=2
CONF
    touch $(seq -f "$FOLDER/gpu%g" 0 $(($1 - 1)))
    echo "NodeName=localhost Name=gpu File=$FOLDER/gpu[0-$(($1 - 1))]" > "$FOLDER/gres.conf"
    mungekey --create --force --keyfile="$FOLDER/munge.key"
    chmod 400 "$FOLDER/munge.key"
    munged --force --key-file="$FOLDER/munge.key" --socket="$FOLDER/munge.socket" --pid-file="$FOLDER/munged.pid" \
        --log-file="$FOLDER/munged.log" --seed-file="$FOLDER/munge.seed"
    slurmctld
    slurmd -N localhost
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --partition=main --format=%T 2>> "$FOLDER/sinfo.log")" = idle ] && return
        sleep 0.2
    done
    echo "slurm.sh: the node is not idle after 20 seconds; see $FOLDER/*.log" >&2
    down
    exit 1
}

down() {
    scancel --user="$(id -un)" 2>> "$FOLDER/scancel.log" || true
    for _ in $(seq 50); do
        [ -z "$(squeue --noheader 2>> "$FOLDER/scancel.log")" ] && break
        sleep 0.2
    done
    for name in slurmd slurmctld munged; do
        [ -s "$FOLDER/$name.pid" ] || continue
        pid=$(cat "$FOLDER/$name.pid")
        kill "$pid" || true
        for _ in $(seq 50); do
            kill -0 "$pid" 2>> "$FOLDER/kill.log" || break
            sleep 0.2
        done
    done
}

"$1" "${@:3}"
