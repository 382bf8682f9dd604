"""The Lightning module that fits V0 to V6 on region features."""

from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from chextriev.train.adjacency import cooccurrence_adjacency
from chextriev.train.feature_data import Batch, FeatureData
from chextriev.train.losses import finding_loss
from chextriev.train.region_encoder import EncoderOutput, RegionEncoder
from chextriev.train.validation import mean_auroc, retrieval_precision
from chextriev.variants import find_variant, new_variant

SCHEDULE_FACTOR, SCHEDULE_PATIENCE = 0.1, 4


class Validated(NamedTuple):
    """What validation keeps of a batch, on the CPU: outputs, findings and rows of the study table."""

    embedding: Tensor
    finding_logits: Tensor
    region_logits: Tensor
    image_findings: Tensor
    region_findings: Tensor
    row: Tensor


class EncoderModule(pl.LightningModule):
    """Train a variant as published: Adam, the rate cut where the validation loss stands still.

    Args:
        variant: name of a published variant, or the settings of a new one (`base` names the one it starts from).
        feature_width: width of a region's backbone feature (taken from the data).
        learning_rate: of Adam.
        provenance: digests of the data (taken from the data).
    """

    def __init__(
        self,
        variant: str | dict[str, Any] = "v6",
        feature_width: int = 2048,
        learning_rate: float = 1e-4,
        provenance: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        spec = find_variant(variant) if isinstance(variant, str) else new_variant(variant)
        self.spec, self.learning_rate = spec, learning_rate
        self.save_hyperparameters(
            {
                "variant": spec.as_dict(),
                "feature_width": feature_width,
                "learning_rate": learning_rate,
                "provenance": provenance or {},
            }
        )
        self.encoder = RegionEncoder(spec, feature_width)
        self._validated: list[Validated] = []

    def setup(self, stage: str) -> None:
        """Compute the adjacency, where the variant has one, from the train split alone; checkpoints carry it."""
        if stage == "fit" and self.encoder.transformer is not None and self.spec.adjacency == "co-occurrence":
            linked = cooccurrence_adjacency(self._data.train_region_findings())
            self.encoder.transformer.adjacency.copy_(torch.from_numpy(linked))

    def forward(self, features: Tensor) -> EncoderOutput:
        """Backbone features [B, 18, feature_width] float32."""
        output: EncoderOutput = self.encoder(features)
        return output

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of one batch."""
        loss = finding_loss(self(batch.features), batch.image_findings, batch.region_findings, self.spec.loss)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.row))
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Keep what the metrics need: they are of the whole split, not means of batches."""
        output = self(batch.features)
        kept = (output.embedding, output.finding_logits, output.region_logits, *batch[1:])
        self._validated.append(Validated(*(tensor.float().cpu() for tensor in kept)))

    def on_validation_epoch_end(self) -> None:
        """Loss, AUROC of the findings and retrieval precision of the deployed embedding, over the split."""
        split = Validated(*(torch.cat(column) for column in zip(*self._validated, strict=True)))
        self._validated.clear()
        findings = split.image_findings.numpy().astype(np.int8)
        patients = self._data.table.patient_id[split.row.long().numpy()]
        self.log("val_loss", finding_loss(split, split.image_findings, split.region_findings, self.spec.loss))
        self.log("val_auroc", mean_auroc(split.finding_logits, findings), prog_bar=True)
        self.log("val_precision_at_5", retrieval_precision(split.embedding, findings, patients, k=5), prog_bar=True)

    def test_step(self, batch: Batch, index: int) -> None:
        """As validation."""
        self.validation_step(batch, index)

    def on_test_epoch_end(self) -> None:
        """As validation."""
        self.on_validation_epoch_end()

    def configure_optimizers(self) -> Any:
        """Adam and the plateau schedule."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=SCHEDULE_FACTOR, patience=SCHEDULE_PATIENCE
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}

    @property
    def _data(self) -> FeatureData:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, FeatureData):
            raise TypeError(f"EncoderModule trains from FeatureData, not {type(data).__name__}")
        return data
