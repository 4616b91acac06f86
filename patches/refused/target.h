/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * target.h - what the two objects of klp_refused_target.ko share
 */

#ifndef TARGET_H
#define TARGET_H

int target_twin_answer(int from);

#endif /* TARGET_H */
