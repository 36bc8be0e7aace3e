from .adapters import as_mixed_batch as as_mixed_batch
from .augment import Augmentation as Augmentation
from .blending import blend_answers as blend_answers
from .blending import blend_plain as blend_plain
from .blending import in_order as in_order
from .blending import trust_by_order as trust_by_order
from .callbacks import CheckpointCallback as CheckpointCallback
from .callbacks import EMACallback as EMACallback
from .callbacks import ExportCallback as ExportCallback
from .callbacks import PanelCallback as PanelCallback
from .callbacks import PredictionsCallback as PredictionsCallback
from .callbacks import SpeedCallback as SpeedCallback
from .callbacks import StepTimer as StepTimer
from .checkpoint_io import WholeCheckpointIO as WholeCheckpointIO
from .data import CIFAR10DataModule as CIFAR10DataModule
from .data import CIFAR100DataModule as CIFAR100DataModule
from .data import Crops as Crops
from .data import DigitsDataModule as DigitsDataModule
from .data import FashionMNISTDataModule as FashionMNISTDataModule
from .data import FromDatasetsDataModule as FromDatasetsDataModule
from .data import HuggingFaceStream as HuggingFaceStream
from .data import ImageFolderDataModule as ImageFolderDataModule
from .data import ImagesDataModule as ImagesDataModule
from .data import ImageStream as ImageStream
from .data import InMemoryInputs as InMemoryInputs
from .data import LabelledDataModule as LabelledDataModule
from .data import LitDataStream as LitDataStream
from .data import MixingDataModule as MixingDataModule
from .data import StreamedImage as StreamedImage
from .data import StreamingDataModule as StreamingDataModule
from .data import StreamShare as StreamShare
from .data import TextDataModule as TextDataModule
from .data import TextFields as TextFields
from .data import TinyImageNetDataModule as TinyImageNetDataModule
from .data import Tokens as Tokens
from .data import WebDatasetStream as WebDatasetStream
from .errors import InputError as InputError
from .isotonic import KernelTrial as KernelTrial
from .isotonic import correct_soft_labels as correct_soft_labels
from .isotonic import isotonic_regression_tree as isotonic_regression_tree
from .isotonic import isotonic_soft_labels as isotonic_soft_labels
from .isotonic import isotonic_softmax as isotonic_softmax
from .isotonic import kernel_trials as kernel_trials
from .label_mix import LabelMix as LabelMix
from .label_mix import LabelOrder as LabelOrder
from .losses import DIST as DIST
from .losses import DKD as DKD
from .losses import KL as KL
from .losses import MLKD as MLKD
from .losses import NKD as NKD
from .losses import CorrelationDistance as CorrelationDistance
from .losses import DistillationLoss as DistillationLoss
from .losses import LogitStandardisation as LogitStandardisation
from .losses import correlation_loss as correlation_loss
from .losses import dist_loss as dist_loss
from .losses import distillation_loss as distillation_loss
from .losses import dkd_loss as dkd_loss
from .losses import logit_loss as logit_loss
from .losses import mixed_cross_entropy as mixed_cross_entropy
from .losses import multi_level_loss as multi_level_loss
from .losses import nkd_loss as nkd_loss
from .losses import order_penalty as order_penalty
from .losses import probability_loss as probability_loss
from .losses import standardise_logits as standardise_logits
from .methods import AddedTermCallback as AddedTermCallback
from .methods import AttentionCallback as AttentionCallback
from .methods import AuthorsIsotonicCallback as AuthorsIsotonicCallback
from .methods import Contrast as Contrast
from .methods import CRDCallback as CRDCallback
from .methods import CutMixPickCallback as CutMixPickCallback
from .methods import DataSelectionCallback as DataSelectionCallback
from .methods import FeatureLoss as FeatureLoss
from .methods import HintCallback as HintCallback
from .methods import Influence as Influence
from .methods import InnerMixingCallback as InnerMixingCallback
from .methods import IsotonicSoftLabelCallback as IsotonicSoftLabelCallback
from .methods import LabelRevisionCallback as LabelRevisionCallback
from .methods import LossMethod as LossMethod
from .methods import OrderPenaltyCallback as OrderPenaltyCallback
from .methods import Ramp as Ramp
from .methods import RevisionLossCallback as RevisionLossCallback
from .methods import RKDCallback as RKDCallback
from .methods import SimilarityCallback as SimilarityCallback
from .methods import SmoothingControlCallback as SmoothingControlCallback
from .methods import SupervisionMethod as SupervisionMethod
from .methods import TeacherLabelCallback as TeacherLabelCallback
from .methods import TruthBlendCallback as TruthBlendCallback
from .methods import ValueExchangeCallback as ValueExchangeCallback
from .metrics import OrderStatistics as OrderStatistics
from .metrics import expected_calibration_error as expected_calibration_error
from .metrics import fit_temperature as fit_temperature
from .metrics import kl_divergence as kl_divergence
from .metrics import moved_mass as moved_mass
from .metrics import order_statistics as order_statistics
from .metrics import prediction_agreement as prediction_agreement
from .metrics import prediction_entropy as prediction_entropy
from .metrics import violated_rows as violated_rows
from .mixing import InnerPlan as InnerPlan
from .mixing import MixedBatch as MixedBatch
from .mixing import Mixing as Mixing
from .mixing import MixPlan as MixPlan
from .mixing import PlainImages as PlainImages
from .mixing import draw_cutmix as draw_cutmix
from .mixing import draw_mixup as draw_mixup
from .mixing import draw_mosaic as draw_mosaic
from .mixing import mix_batch as mix_batch
from .mixing import mix_images as mix_images
from .mixing import mix_inputs as mix_inputs
from .mixing import mix_labels as mix_labels
from .mixing import mix_rows as mix_rows
from .mixing import plan_batch as plan_batch
from .mixing import stack_pool as stack_pool
from .mixing import with_plain as with_plain
from .models import TextCNN as TextCNN
from .models import build_model as build_model
from .models import load_network as load_network
from .models import load_student as load_student
from .models import load_weights as load_weights
from .models import put_weights as put_weights
from .models import read_description as read_description
from .modules import (
    ClassificationModule as ClassificationModule,
)
from .modules import (
    DistillationModule as DistillationModule,
)
from .modules import (
    Loss as Loss,
)
from .modules import (
    Optimisation as Optimisation,
)
from .modules import (
    SequenceLR as SequenceLR,
)
from .modules import (
    Student as Student,
)
from .modules import (
    SupervisionHooks as SupervisionHooks,
)
from .modules import (
    Teacher as Teacher,
)
from .modules import (
    TeacherBlend as TeacherBlend,
)
from .modules import (
    TeacherOutputs as TeacherOutputs,
)
from .picking import label_by_teacher as label_by_teacher
from .picking import pick_rows as pick_rows
from .picking import score_pool as score_pool
from .picking import split_pool as split_pool
from .revision_selection import revise_soft_labels as revise_soft_labels
from .revision_selection import revision_label_loss as revision_label_loss
from .revision_selection import revision_logit_loss as revision_logit_loss
from .revision_selection import revision_probability_loss as revision_probability_loss
from .revision_selection import teach_trusted_rows as teach_trusted_rows
from .revision_selection import trusted_rows as trusted_rows
from .studies.audit import audit_teacher as audit_teacher
from .supervision import Supervision as Supervision
from .supervision import SupervisionHook as SupervisionHook
from .supervision import add_soft_labels as add_soft_labels
from .supervision import blend_soft_labels as blend_soft_labels
from .supervision import weighted_losses as weighted_losses
from .truth import blend_with_truth as blend_with_truth
from .truth import exchange_values as exchange_values
from .truth import isotonic_with_margin as isotonic_with_margin
from .truth import missed_rows as missed_rows
from .truth import truth_needed as truth_needed

__version__: str
