"""Which devices, from what the user said."""


def choose(devices, best, known, hint):
    """Names of devices from what the user said; `best` for `None`."""
    if devices is None:
        return best
    if isinstance(devices, (list, tuple)) and devices:
        unknown = [device for device in devices if device not in known]
        if not unknown and len(set(devices)) == len(devices):
            return list(devices)
        rule = f"different ones of {known}"
    else:
        if isinstance(devices, int) and 1 <= devices <= len(best):
            return best[:devices]
        rule = f"a list of names, or a number in [1, {len(best)}]"
    raise ValueError(
        f"`devices` must be {rule}: there are no others. "
        f"Received: devices={devices!r} ({hint})"
    )
