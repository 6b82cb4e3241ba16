"""What goes wrong on the board, as the harness tells it. Python 3.8."""


class BoardError(Exception):
    """`message` is one line, `hint` says what to do next, `code` is the harness's exit code."""

    def __init__(self, message, hint="", code=52):
        super(BoardError, self).__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class Missing(BoardError):
    """TensorRT is not on this machine."""


class Unprepared(BoardError):
    """There is no engine for this model on this board yet."""


SWAP = (
    "close what else runs (a desktop: sudo systemctl isolate multi-user.target), or add swap: "
    "sudo fallocate -l 8G /mnt/swap && sudo chmod 600 /mnt/swap && sudo mkswap /mnt/swap && sudo swapon /mnt/swap"
)


def out_of_memory(free, workspace, killed=False):
    """
    Args:
        free: bytes that were free before, swap included.
        workspace: bytes that TensorRT was allowed.
        killed: the build was ended from outside, which mostly is the kernel.
    """
    what = "the board has too little memory to build the engine"
    if killed:
        what = "the build was killed, as the kernel does where memory runs out"
    words = "%s (%s were free, %s of workspace)" % (what, megabytes(free), megabytes(workspace))
    return BoardError(words, "%s; then prepare again" % SWAP)


def megabytes(count):
    return "an unknown amount" if count is None else "%d MB" % (count // 2**20)
