"""What a SavedModel answers, in a process that has TensorFlow and nothing of this project.

    python -I export/answers.py SAVED_MODEL QUESTIONS.npz ANSWERS.npz      (started by export.parity)

QUESTIONS holds `pixels`, uint8 [N, H, W, 3], and the encoded images as `encoded`, uint8, all bytes in a row, and
`lengths`, int64 [N]. ANSWERS holds SIGNATURE/HEAD, and `seconds` that loading took.
"""

import sys
import time

import numpy as np
import tensorflow as tf


def main() -> None:
    """Answers one file of questions."""
    folder, questions, answers = sys.argv[1:]
    given = np.load(questions)
    ends = np.cumsum(given["lengths"])
    encoded = given["encoded"].tobytes()
    images = [encoded[end - length : end] for end, length in zip(ends, given["lengths"])]
    with tf.device("CPU"):
        start = time.perf_counter()
        signatures = tf.saved_model.load(folder).signatures
        seconds = time.perf_counter() - start
        replies = {
            "serving_default": signatures["serving_default"](images=tf.constant(given["pixels"])),
            "serving_bytes": signatures["serving_bytes"](image_bytes=tf.constant(images)),
        }
    columns = {f"{name}/{head}": value for name, reply in replies.items() for head, value in reply.items()}
    np.savez(answers, seconds=seconds, **columns)


if __name__ == "__main__":
    main()
