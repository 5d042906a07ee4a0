"""What goes on beside the algorithm while images are learned: pictures, scores, checkpoints, and a bar."""

from contextlib import contextmanager

from mtt import history
from mtt.progress import bar


@contextmanager
def watching(state, iterations, every, score, look, checkpoints):
    """Gives the function (values) that is called after each iteration with the losses of its segments.

    `state` is the State that the iterations change; it is scored by `score(state)` after every `every`, and seen by `look(state)`:
    both None but in one rank, `score` also where there is none. `checkpoints` are those of the run.
    """

    def after(values):
        if score and state.iteration % every == 0:
            state.score(score(state))
        checkpoints.due(state)
        seen()
        best = f", validation {state.scores[-1][1]:.3f}" if state.scores else ""
        progress.set_postfix_str(f"loss {float(values.mean()):.4f}, step size {float(state.alpha):.5f}{best}", refresh=False)
        progress.update()

    def seen():
        if look and (history.due(state.iteration) or state.iteration == iterations):
            look(state)

    seen()
    with bar(iterations, "distill", "iteration", state.iteration, shown=bool(look)) as progress:
        try:
            yield after
        except ArithmeticError as error:
            if type(error) is ArithmeticError:  # numbers that are no longer finite, which have changed nothing yet
                checkpoints.now(state)
            raise
    checkpoints.end(state)
