// SPDX-License-Identifier: GPL-2.0-only
/*
 * target_twin.c - the second function named klp_refused_twin()
 *
 * Purpose: have a static function whose name target_main.c gives to another.
 */

#include <linux/compiler.h>

#include "target.h"

static noinline __noclone int klp_refused_twin(int from)
{
	return from + 20;
}

int target_twin_answer(int from)
{
	return klp_refused_twin(from);
}
