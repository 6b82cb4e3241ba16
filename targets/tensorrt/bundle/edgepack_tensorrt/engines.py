"""Built engines: where they lie, what each was built from, one build at a time, written whole. Python 3.8."""

import fcntl
import hashlib
import json
import os
import sys
from contextlib import contextmanager

from edgepack_tensorrt import board
from edgepack_tensorrt.errors import BoardError, Unprepared
from edgepack_tensorrt.model_file import digest

# Another folder than the bundle's own `engines`, for a bundle that cannot be written.
PLACE = "EDGEPACK_ENGINES"
PREPARE = "python3 harness.py prepare"
CALLED = {
    "model": "the model",
    "tensorrt": "TensorRT",
    "gpu": "the GPU",
    "compute": "the compute capability",
    "l4t": "L4T",
    "settings": "the settings",
}


def identity(path, settings, version):
    """All that an engine depends on. What is unknown is None, and then has to stay unknown."""
    found = board.gpu()
    return {
        "model": digest(path),
        "tensorrt": version,
        "gpu": found["name"],
        "compute": found["compute"],
        "l4t": board.l4t(),
        "settings": settings.of_the_engine(),
    }


def key(entries):
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:24]


def folder_for(path):
    """Where the engines of the model at `path` lie: in its bundle's folder."""
    chosen = os.environ.get(PLACE)
    if chosen:
        return chosen
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.basename(folder) in ("model", "baseline"):
        folder = os.path.dirname(folder)
    return os.path.join(folder, "engines")


def engine_path(path, entries):
    return os.path.join(folder_for(path), key(entries) + ".engine")


def timing_path(path, entries):
    """One timing cache for all models, since it holds kernels; of one TensorRT on one board."""
    shared = {name: entries[name] for name in ("tensorrt", "gpu", "compute", "l4t")}
    return os.path.join(folder_for(path), "timing-%s.cache" % key(shared)[:12])


def about(engine):
    """What was written down of an engine, None if nothing that can be read."""
    try:
        with open(engine + ".json", encoding="utf-8") as file:
            found = json.load(file)
        return found if isinstance(found, dict) else None
    except (OSError, ValueError):
        return None


def is_whole(engine):
    """An engine and its record, of the size that was written."""
    found = about(engine)
    return bool(found) and os.path.isfile(engine) and os.path.getsize(engine) == found.get("bytes")


def prepared(path, entries):
    """The engine for these entries.

    Raises:
        Unprepared: there is none, and what has changed if there was one.
    """
    engine = engine_path(path, entries)
    if is_whole(engine):
        return engine
    folder = folder_for(path)
    if os.path.isfile(engine):
        raise Unprepared("the engine in %s is damaged" % folder, PREPARE)
    older = [about(os.path.join(folder, name)) for name in listed(folder) if name.endswith(".engine")]
    same = [found["entries"] for found in older if found and found.get("part") == part_of(path)]
    if not same:
        raise Unprepared("no engine has been built for this bundle on this board (%s)" % folder, PREPARE)
    fewest = min((changes(found, entries) for found in same), key=len)
    raise Unprepared("the engine was built for another board or bundle: %s" % "; ".join(fewest), PREPARE)


def changes(before, now):
    found = []
    for name in now:
        if before.get(name) != now[name]:
            if name in ("model", "settings"):
                found.append("%s changed" % CALLED[name])
            else:
                found.append("%s was %s and is %s" % (CALLED[name], before.get(name), now[name]))
    return found


def part_of(path):
    return os.path.basename(os.path.dirname(os.path.abspath(path)))


def listed(folder):
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


@contextmanager
def alone(folder, say):
    """Hold the folder's lock, having waited for another build; gives the lock's number, which a child keeps open."""
    try:
        os.makedirs(folder, exist_ok=True)
        file = open(os.path.join(folder, "lock"), "a")  # noqa: SIM115
    except OSError as error:
        words = "%s cannot be written: %s" % (folder, error.strerror)
        raise BoardError(words, "let %s name a folder that can" % PLACE, code=61)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another prepare is at it in %s: waiting" % folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        # Whoever has the lock builds alone: what is half written was left by one that was killed.
        for name in listed(folder):
            if name.endswith((".partial", ".partial.lock")):  # trtexec locks its timing cache by a file
                os.remove(os.path.join(folder, name))
        yield file.fileno()


def keep(partial, engine, record):
    """Put a finished engine in its place, with a record of what it is; either is there whole or not at all."""
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    record = dict(record, bytes=os.path.getsize(partial))
    beside = engine + ".json.partial"
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, engine)
    os.replace(beside, engine + ".json")


def sweep(path, entries):
    """Remove this bundle's engines that nothing can load any more: of another TensorRT, L4T or GPU.

    A folder that was chosen may be shared, with a container that has another TensorRT, for one.
    """
    if os.environ.get(PLACE):
        return
    folder = folder_for(path)
    for name in listed(folder):
        engine = os.path.join(folder, name)
        found = about(engine) if name.endswith(".engine") else None
        if found is None or found["entries"] == entries:
            continue
        if all(found["entries"].get(part) == entries[part] for part in ("model", "settings")):
            forget(engine, engine + ".json")


def forget(*paths):
    for path in paths:
        if os.path.exists(path):
            os.remove(path)


def say(text):
    sys.stderr.write("edgepack: %s\n" % text)
    sys.stderr.flush()
