"""What goes on beside the algorithm while images are learned: pictures, scores, checkpoints, and a bar."""

import time
from contextlib import contextmanager

from mtt import history, store
from mtt.progress import bar


@contextmanager
def watching(state, iterations, every, score, look, folder):
    """Gives the function (values) that is called after each iteration with the losses of its segments.

    `state` is the State that the iterations change; it is scored by `score(state)` after every `every`, and seen by `look(state)`:
    both None but in one rank, `score` also where there is none. Checkpoints go to `folder`: one that rolls, one of the end.
    """
    rolling, saved = folder / "rolling.safetensors", time.monotonic()

    def after(values):
        nonlocal saved
        if score and state.iteration % every == 0:
            state.score(score(state))
        if store.due(saved):
            state.save(rolling)
            saved = time.monotonic()
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
                state.save(rolling)
            raise
    state.save(folder / f"{iterations:06d}.safetensors")
    rolling.unlink(missing_ok=True)
