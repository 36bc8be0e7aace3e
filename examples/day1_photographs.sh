#!/usr/bin/env bash
# A day with photographs: class folders, a timm teacher, an audit, a student, its export, unlabelled photographs.
#
#   examples/day1_photographs.sh PHOTOS NEW [OPTION ...]
#
# PHOTOS has train/<class>/ and, for the test, val/<class>/; NEW is a folder of images without labels. Options go to every
# fit, such as --trainer.max_epochs=5. TEACHER names the timm network; TEACHER_WEIGHTS is a file of weights for it, without
# which it is trained first; AUDIT_BATCHES how many batches the audit sees. Everything that is written lies in outputs/day1.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
photos=$1 new=$2
shift 2
ida=${IDA:-ida-lightning}
teacher=${TEACHER:-resnet18}
weights=${TEACHER_WEIGHTS:-outputs/day1/teacher.safetensors}

if [ ! -f "$weights" ]; then
  "$ida" fit --config "$here/day1_teacher.yaml" --data.root="$photos" --model.model="$teacher" "$@"
fi
student=(--config "$here/day1_student.yaml" --data.root="$photos"
  --model.teacher="$teacher" --model.teacher_checkpoint="$weights")
"$ida" audit "${student[@]}" --batches="${AUDIT_BATCHES:-10}" --out=outputs/day1/audit
"$ida" fit "${student[@]}" "$@"
"$ida" test "${student[@]}" --ckpt_path=outputs/day1/student/best.ckpt
"$ida" predict --weights=outputs/day1/student.safetensors --images="$new" --out=outputs/day1/predictions.csv --top_k=3
head -4 outputs/day1/predictions.csv
