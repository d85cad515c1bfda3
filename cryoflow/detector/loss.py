"""The loss of a detector: focal for centers, with rules for missing labels; distance for offset and size; junk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryoflow.detector import network as net
from cryoflow.detector import targets as t

if TYPE_CHECKING:
    import keras

OFFSET_WEIGHT, SIZE_WEIGHT, JUNK_WEIGHT = 0.5, 0.5, 2.0


def detector_loss(*, unlabeled: bool = False, distill: float = 0.0) -> keras.losses.Loss:
    """Return the loss that compares answers with target maps.

    Centers: the penalty-reduced focal loss (Law & Deng 2018, CornerNet; powers 2 and 4), over the number of particles.
    Places of unknown fate have no part in it unless `unlabeled`; then they enter by the non-negative
    positive-unlabeled risk (Kiryo et al. 2017): as negatives, less what the particles among them add to that, estimated
    from the labeled particles and the class prior, but never below zero.

    With `distill`, the targets end with an earlier model's answers and their weight (`stream.MixedStream`): the
    cross-entropy between its probabilities of particles and junk and ours, and the distance of offsets and sizes where
    it sees a particle, are added.
    """
    import keras
    from keras import ops

    def taught(true: Any, answers: Any) -> Any:
        teacher, weight = true[..., t.N_TARGETS : t.N_TARGETS + net.N_OUTPUTS], true[..., -1]
        some = ops.maximum(ops.sum(weight), 1.0)
        total: Any = 0.0
        for channel in (net.PARTICLE, net.JUNK):
            p = ops.sigmoid(teacher[..., channel])
            entropy = ops.softplus(teacher[..., channel]) - p * teacher[..., channel]
            cross = ops.softplus(answers[..., channel]) - p * answers[..., channel]
            total = total + ops.sum(weight * (cross - entropy)) / some
        sure = weight * ops.sigmoid(teacher[..., net.PARTICLE])
        for channel in (net.OFFSET_X, net.OFFSET_Y, net.LOG_SIZE):
            distance = ops.abs(answers[..., channel] - teacher[..., channel])
            total = total + ops.sum(sure * distance) / ops.maximum(ops.sum(sure), 1.0)
        return total

    class DetectorLoss(keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            true: Any = ops.cast(y_true, "float32")
            answers: Any = ops.cast(y_pred, "float32")

            def channel(i: int) -> Any:
                return true[..., i]

            logit = answers[..., net.PARTICLE]
            p = ops.clip(ops.sigmoid(logit), 1e-5, 1 - 1e-5)
            center = channel(t.CENTER)
            is_center = ops.cast(channel(t.HEAT) > 0.9999, "float32") * ops.cast(center > 0, "float32")
            as_negative = ops.square(p) * ops.softplus(logit)
            if_particle = is_center * center * ops.square(1 - p) * ops.softplus(-logit)
            if_none = (1 - is_center) * channel(t.WEIGHT) * ops.power(1 - channel(t.HEAT), 4.0) * as_negative
            number = ops.maximum(ops.sum(is_center * center), 1.0)
            total = ops.sum(if_particle) + ops.sum(if_none)
            if unlabeled:
                near = ops.cast(channel(t.HEAT) > 0.01, "float32") * ops.cast(channel(t.UNLABELED) < 0.5, "float32")
                unknown = channel(t.UNLABELED)
                of_unknown = ops.sum(unknown * as_negative)
                # What a mean particle's disc adds when it is taken for background, for each particle that hides.
                each = ops.sum(near * as_negative) / ops.maximum(ops.sum(near), 1.0)
                hidden = ops.sum(unknown * channel(t.PRIOR)) * each
                total = total + ops.maximum(of_unknown - hidden, 0.0)
            centers = total / number

            disc = ops.cast(channel(t.HEAT) > 0.3, "float32") * channel(t.WEIGHT)
            some = ops.maximum(ops.sum(disc), 1.0)
            off = ops.abs(answers[..., net.OFFSET_X] - channel(t.OFF_X))
            off = off + ops.abs(answers[..., net.OFFSET_Y] - channel(t.OFF_Y))
            offset = ops.sum(disc * off) / some
            known = disc * channel(t.SIZE_KNOWN)
            size = ops.sum(known * ops.abs(answers[..., net.LOG_SIZE] - channel(t.SIZE)))
            size = size / ops.maximum(ops.sum(known), 1.0)
            junk_logit = answers[..., net.JUNK]
            junk_loss = ops.softplus(junk_logit) - channel(t.JUNK_TRUE) * junk_logit
            looked = channel(t.JUNK_KNOWN)
            junk = ops.sum(looked * junk_loss) / ops.maximum(ops.sum(looked), 1.0)
            loss = centers + OFFSET_WEIGHT * offset + SIZE_WEIGHT * size + JUNK_WEIGHT * junk
            if distill:
                loss = loss + distill * taught(true, answers)
            # A vector of one: Keras divides the loss by the number of devices while it reduces, and reduces no scalar.
            return ops.expand_dims(loss, 0)

    return DetectorLoss(name="detector_loss", reduction="sum_over_batch_size")
