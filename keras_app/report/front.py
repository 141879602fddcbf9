"""Which of several networks are worth having: small, or accurate, or both."""

import numpy as np
import numpy.typing as npt


def pareto_front(
    densities: npt.ArrayLike, accuracies: npt.ArrayLike
) -> list[int]:
    """Finds the runs that no other run beats.

    Run j beats run i if it has no more weights and no less accuracy, and is
    strictly better in one of the two. Equal runs do not beat each other.

        i is on the front  <=>  no j with d_j <= d_i, a_j >= a_i
                                and (d_j, a_j) != (d_i, a_i)

    One sort.

    Args:
        densities: Densities, or any other cost, one for each run; finite.
        accuracies: Accuracies, or any other gain, one for each run; finite.

    Returns:
        A list of indices by rising density; equal runs in their order.

    Raises:
        ValueError: The lengths differ, or a number is not finite.

    Example:

    >>> pareto_front([1.0, 0.1, 0.2, 0.5], [0.90, 0.80, 0.75, 0.88])
    [1, 3, 0]
    """
    densities = np.asarray(densities, "float64")
    accuracies = np.asarray(accuracies, "float64")
    if densities.ndim != 1 or densities.shape != accuracies.shape:
        raise ValueError(
            "`densities` and `accuracies` must be two lists of one length. "
            f"Received: shapes {densities.shape} and {accuracies.shape}"
        )
    for name, values in (("densities", densities), ("accuracies", accuracies)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"`{name}` must be finite. Received: {name}={values.tolist()}"
            )
    front = []
    # Among equal densities the most accurate comes first, and lexsort is
    # stable: so each run is beaten by the last of the front or by none.
    for index in np.lexsort((-accuracies, densities)).tolist():
        last = front[-1] if front else None
        if last is None or accuracies[index] > accuracies[last]:
            front.append(index)
        elif (densities[index], accuracies[index]) == (
            densities[last],
            accuracies[last],
        ):
            front.append(index)
    return front
