/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * klp_pair.h - what klp_pair.ko and its livepatch agree on
 */

#ifndef KLP_PAIR_H
#define KLP_PAIR_H

#include <linux/delay.h>

/* Which of the two versions took part in one round. */
enum klp_pair_outcome {
	KLP_PAIR_OLD,
	KLP_PAIR_NEW,
	KLP_PAIR_MIXED,
	KLP_PAIR_OUTCOMES
};

/**
 * struct klp_pair - one round: a value is sealed by one function and opened
 *	by another
 * @value:	what is sealed, never 0
 * @sealed:	the value, multiplied by the factor of the sealing version
 * @pause_ms:	how long the sealing function sleeps before it calls @open
 * @open:	the opening function of klp_pair.ko, livepatched or not
 */
struct klp_pair {
	int value;
	int sealed;
	unsigned int pause_ms;
	enum klp_pair_outcome (*open)(struct klp_pair *pair);
};

static inline void klp_pair_pause(const struct klp_pair *pair)
{
	if (pair->pause_ms)
		msleep(pair->pause_ms);
}

#endif /* KLP_PAIR_H */
