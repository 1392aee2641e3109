"""``python -m sedona_nni.command_line``, as ``sedona-nni``."""

from sedona_nni.command_line import main

if __name__ == "__main__":
    main()
