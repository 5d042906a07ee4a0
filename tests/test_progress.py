from mtt import progress


def test_in_a_log_file_each_state_of_a_bar_and_each_message_is_a_line(capsys):
    with progress.bar(2, "distill", "iteration") as bar:
        bar.mininterval = 0  # else a line a minute
        bar.update()
        progress.say("a message")
        bar.update()
    found = capsys.readouterr().err
    lines = found.splitlines()
    assert "\r" not in found
    assert all(line.startswith("distill: ") or line == "a message" for line in lines)
    assert [line.split("|")[0] for line in lines[:2]] == ["distill:   0%", "distill:  50%"]
    assert "2/2" in lines[-1]
