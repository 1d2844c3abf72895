# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pushes to the Hub while a training goes on (`--push_to_hub`, `--hub_strategy`)."""

import functools
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from transformers import PreTrainedModel
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from .checkpoints import STATE_FILE
from .publishing import push_run

logger = logging.getLogger(__name__)

# Of a checkpoint: what is no pickle. Without the state of its optimizer it cannot be resumed from, so the file that
# tells `--resume_from_checkpoint` a whole checkpoint is not pushed either.
CHECKPOINT_FILES = ["*.json", "*.safetensors"]
NOT_OF_A_CHECKPOINT = [STATE_FILE]


class HubPushes:
    """For a `Trainer` with `averaged_weights`, `whole_model` and `has_shards`: what is pushed in the middle of a
    training is what its end would push.

    The base class copies the weights of the checkpoint, which are not the averaged ones, and pickles its arguments.
    It also pushes the pickles of a checkpoint, where `--hub_strategy` says `checkpoint` or `all_checkpoints`. Here
    these push its weights and configurations, to be evaluated or to start from; it is resumed from on its disk alone.

    Attributes:
        write_shared (*optional*): is given the model, writes what is shared, such as a pipeline, and returns its
            folder. Without it the model alone is shared, from `output_dir`.
    """

    write_shared: Callable[[PreTrainedModel], Path] | None = None
    _uploaded_checkpoint: str | None = None  # by the last push

    def push_shared(self, folder: Path) -> None:
        """Uploads a folder that `write_shared` wrote, after all uploads that go on; a failure is an error."""
        self._finish_current_push()
        push_run(self.args, folder)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        tags: str | list[str] | None = None,
        **card,
    ) -> CommitInfo | Future | None:
        """As in the base class, by [`~rq_hf.sharing.push_folder`]: without pickles and checkpoints, and onto a branch
        that is made if it is missing. `None` on all processes but the first. What else the base class would write into
        a card has no effect, with a warning: cards are made from `model_cards/`."""
        if card:
            logger.warning("These arguments have no effect on the card: %s.", ", ".join(sorted(card)))
        if self.write_shared is None:
            self.save_model(_internal_call=True)
        else:
            model = self.whole_model()  # by all processes, where it has shards
        if not self.is_world_process_zero():
            return None
        folder = Path(self.args.output_dir)
        if self.write_shared is not None:
            with self.averaged_weights():
                folder = self.write_shared(model)
        self._finish_current_push()
        tags = [tags] if isinstance(tags, str) else tags
        options = {"token": token, "revision": revision, "private": private, "tags": tags}
        options = {name: value for name, value in options.items() if value is not None}
        push = functools.partial(push_run, self.args, folder, commit_message, **options)
        return push() if blocking else HfApi().run_as_future(push)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As in the base class, with the averaged weights where there are any, and with no pickle of the arguments or
        the optimizer."""
        strategy = HubStrategy(self.args.hub_strategy)
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        if self._pushes_go_on() and not self.args.hub_always_push:
            return
        if self.write_shared is not None and self.has_shards:
            logger.warning("Nothing is pushed at step %d: the model is sharded.", self.state.global_step)
            return
        self._finish_current_push()  # what is being uploaded must not change meanwhile
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        message = f"Training in progress, step {self.state.global_step}"
        folder = self._write_shared_folder(Path(checkpoint_folder))
        api = HfApi(token=self.args.hub_token)
        jobs = [api.run_as_future(push_run, self.args, folder, message)]
        self._uploaded_checkpoint = None
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            newest = strategy == HubStrategy.CHECKPOINT
            name = "last-checkpoint" if newest else Path(checkpoint_folder).name
            self._uploaded_checkpoint = Path(checkpoint_folder).name
            jobs.append(
                api.upload_folder(
                    repo_id=self.hub_model_id,
                    folder_path=checkpoint_folder,
                    path_in_repo=name,
                    allow_patterns=CHECKPOINT_FILES,
                    ignore_patterns=NOT_OF_A_CHECKPOINT,
                    commit_message=f"{message}, checkpoint",
                    revision=self.args.hub_revision,
                    run_as_future=True,
                )
            )
        for job in jobs:
            job.add_done_callback(_report_failure)
        self.push_in_progress = PushInProgress(jobs)

    def _pushes_go_on(self) -> bool:
        return self.push_in_progress is not None and not self.push_in_progress.is_done()

    @property
    def checkpoint_being_uploaded(self) -> str | None:
        """The name of its folder, which must stay until it is read."""
        is_uploaded = self._uploaded_checkpoint is not None and self._pushes_go_on()
        return self._uploaded_checkpoint if is_uploaded else None

    def _write_shared_folder(self, checkpoint: Path) -> Path:
        """Writes what is shared and returns its folder."""
        output = Path(self.args.output_dir)
        with self.averaged_weights():
            if self.write_shared is not None:
                return self.write_shared(self.accelerator.unwrap_model(self.model))
            if self.average is not None:
                self._save(str(output))
                return output
        # Whole, even where processes share the weights; of an adapter, too.
        for pattern in ("*config.json", "*model*.safetensors*"):
            for path in checkpoint.glob(pattern):
                shutil.copy(path, output / path.name)
        return output


def _report_failure(job: Future) -> None:
    """A push that fails in the background does not end the training; the one at its end tries once more."""
    if not job.cancelled() and job.exception() is not None:
        logger.error("A push to the Hub failed, and the training goes on: %s", job.exception())
