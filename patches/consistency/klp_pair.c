// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_pair.c - two functions that must change together
 *
 * Purpose: make the consistency model visible. klp_pair_seal() writes a value
 * in a format that klp_pair_open() understands, and calls it, so it is on the
 * stack all the while. A livepatch changes the format in both. A round is
 * "old" or "new" if both were of one version, and "mixed" if a task met one of
 * each, which must never happen unless somebody forces the transition.
 *
 * Kthreads play rounds without end, and so does whoever reads /proc/klp_pair:
 * a read is one round, and shows the counts of all.
 *
 * Usage:
 *
 *   # insmod klp_pair.ko threads=4
 *   # cat /proc/klp_pair
 *   old 81 new 0 mixed 0
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "klp_pair.h"

#define PROC_NAME "klp_pair"

static unsigned int threads = 2;
module_param(threads, uint, 0444);
MODULE_PARM_DESC(threads, "how many kthreads play rounds (default=2)");

static unsigned int pause_ms = 1;
module_param(pause_ms, uint, 0644);
MODULE_PARM_DESC(pause_ms, "sleep in the middle of each round (default=1)");

static atomic_t counts[KLP_PAIR_OUTCOMES];
static struct task_struct **players;

static noinline __noclone enum klp_pair_outcome
klp_pair_open(struct klp_pair *pair)
{
	if (pair->sealed != pair->value * 3)
		return KLP_PAIR_MIXED;
	return KLP_PAIR_OLD;
}

static noinline __noclone enum klp_pair_outcome
klp_pair_seal(struct klp_pair *pair)
{
	pair->sealed = pair->value * 3;
	klp_pair_pause(pair);
	return pair->open(pair);
}

static void klp_pair_round(void)
{
	struct klp_pair pair = {
		.value = 7,
		.pause_ms = READ_ONCE(pause_ms),
		.open = klp_pair_open,
	};

	atomic_inc(&counts[klp_pair_seal(&pair)]);
}

static int klp_pair_play(void *unused)
{
	while (!kthread_should_stop()) {
		klp_pair_round();
		msleep(20);
	}
	return 0;
}

static int klp_pair_show(struct seq_file *m, void *v)
{
	klp_pair_round();
	seq_printf(m, "old %d new %d mixed %d\n",
		   atomic_read(&counts[KLP_PAIR_OLD]),
		   atomic_read(&counts[KLP_PAIR_NEW]),
		   atomic_read(&counts[KLP_PAIR_MIXED]));
	return 0;
}

static void klp_pair_stop(void)
{
	unsigned int i;

	for (i = 0; i < threads && !IS_ERR_OR_NULL(players[i]); i++)
		kthread_stop(players[i]);
	kfree(players);
}

static int klp_pair_start(void)
{
	unsigned int i;

	players = kcalloc(threads, sizeof(*players), GFP_KERNEL);
	if (!players)
		return -ENOMEM;

	for (i = 0; i < threads; i++) {
		players[i] = kthread_run(klp_pair_play, NULL, "klp_pair/%u", i);
		if (IS_ERR(players[i])) {
			int err = PTR_ERR(players[i]);

			klp_pair_stop();
			return err;
		}
	}
	return 0;
}

static int __init klp_pair_init(void)
{
	int err;

	err = klp_pair_start();
	if (err)
		return err;

	if (!proc_create_single(PROC_NAME, 0444, NULL, klp_pair_show)) {
		klp_pair_stop();
		return -ENOMEM;
	}
	return 0;
}

static void __exit klp_pair_exit(void)
{
	remove_proc_entry(PROC_NAME, NULL);
	klp_pair_stop();
}

module_init(klp_pair_init);
module_exit(klp_pair_exit);
MODULE_DESCRIPTION("Two functions that must change together");
MODULE_LICENSE("GPL");
