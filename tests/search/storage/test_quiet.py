from __future__ import annotations

import logging
import threading

from autoprune.search.storage import quiet


def test_a_notice_of_this_thread_is_held_back_and_nothing_else(caplog):
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger("some.library")
    with quiet("some.library"):
        logger.info("held back")
        logger.warning("a warning")
        logging.getLogger("some.library.part").info("another logger")
        thread = threading.Thread(target=logger.info, args=("another thread",))
        thread.start()
        thread.join()
        with quiet("some.library", up_to=logging.WARNING):
            logger.warning("held back")
            logger.error("an error")
    logger.info("afterwards")
    told = ["a warning", "another logger", "another thread", "an error", "afterwards"]
    assert [record.getMessage() for record in caplog.records] == told
    assert logger.level == logging.NOTSET
