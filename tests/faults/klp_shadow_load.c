// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_shadow_load.c - make and free shadow variables, and count what came of it
 *
 * Purpose: let the tests compare what klpshadow says with what was done. The
 * work is done in the module's init; the counts go to the kernel log, in one
 * line, before insmod returns:
 *
 *   # insmod klp_shadow_load.ko count=1000000
 *   klp_shadow_load: made=1000000 found=0 failed=0 freed=1000000 ...
 *
 * Each thread has "live" objects of its own: it makes a variable for each,
 * asks "gets" times for it, frees them all, and begins again until it has made
 * count / threads of them. With race=1 all threads share four objects instead,
 * and each makes, gets and frees what it can: there only the constructor and
 * the destructor can tell how many were made and freed, so both are used.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/livepatch.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>

#define SHARED 4

static ulong count = 1000;
module_param(count, ulong, 0444);
MODULE_PARM_DESC(count, "variables to make in all, or tries of all threads with race=1");

static uint threads = 1;
module_param(threads, uint, 0444);
MODULE_PARM_DESC(threads, "threads that share the work");

static uint live = 1;
module_param(live, uint, 0444);
MODULE_PARM_DESC(live, "variables that each thread has at the same time");

static uint gets;
module_param(gets, uint, 0444);
MODULE_PARM_DESC(gets, "calls of klp_shadow_get for each variable");

static ulong id = 0x10ad;
module_param(id, ulong, 0444);
MODULE_PARM_DESC(id, "the variables' id");

static uint size = 8;
module_param(size, uint, 0444);
MODULE_PARM_DESC(size, "bytes of a variable");

static bool ctor;
module_param(ctor, bool, 0444);
MODULE_PARM_DESC(ctor, "use a constructor");

static uint refuse;
module_param(refuse, uint, 0444);
MODULE_PARM_DESC(refuse, "have every so-manieth constructor fail");

static bool dtor;
module_param(dtor, bool, 0444);
MODULE_PARM_DESC(dtor, "use a destructor");

static bool race;
module_param(race, bool, 0444);
MODULE_PARM_DESC(race, "have all threads work on the same four objects");

static bool leave;
module_param(leave, bool, 0444);
MODULE_PARM_DESC(leave, "leave the last round's variables behind");

static atomic_long_t made, found, failed, freed, answers, nothings, ctors, dtors;
static DECLARE_COMPLETION(all_done);
static atomic_t at_work;
static char *objects; /* a byte each: whether it has a variable */

static int shadow_ctor(void *obj, void *data, void *ctor_data)
{
	long number = atomic_long_inc_return(&ctors);

	if (refuse && number % refuse == 0)
		return -EPERM;
	memset(data, 0x5a, size);
	return 0;
}

static void shadow_dtor(void *obj, void *data)
{
	atomic_long_inc(&dtors);
}

static void make(char *obj)
{
	*obj = !!klp_shadow_alloc(obj, id, size, GFP_KERNEL,
				  ctor ? shadow_ctor : NULL, NULL);
	atomic_long_inc(*obj ? &made : &failed);
}

static void get(void *obj)
{
	atomic_long_inc(klp_shadow_get(obj, id) ? &answers : &nothings);
}

static void release(char *obj)
{
	klp_shadow_free(obj, id, dtor ? shadow_dtor : NULL);
	atomic_long_add(*obj, &freed);
}

static void work_alone(char *own)
{
	ulong left = count / threads;

	while (left) {
		uint now = min_t(ulong, left, live), i, j;

		for (i = 0; i < now; i++)
			make(own + i);
		for (i = 0; i < now; i++)
			for (j = 0; j < gets; j++)
				get(own + i);
		left -= now;
		if (leave && !left)
			return;
		for (i = 0; i < now; i++)
			release(own + i);
		cond_resched();
	}
}

static void work_in_a_race(uint turn)
{
	ulong left = count / threads;

	for (; left; left--, turn++) {
		void *obj = objects + turn / 3 % SHARED;

		if (!klp_shadow_get_or_alloc(obj, id, size, GFP_KERNEL, shadow_ctor, NULL))
			atomic_long_inc(&failed);
		get(obj);
		if (turn % 3 == 0)
			klp_shadow_free(obj, id, shadow_dtor);
		cond_resched();
	}
}

static int work(void *number)
{
	if (race)
		work_in_a_race((uint)(ulong)number);
	else
		work_alone(objects + (ulong)number * live);
	if (atomic_dec_and_test(&at_work))
		complete(&all_done);
	return 0;
}

static void report(u64 ns)
{
	if (race) {
		ulong calls = count / threads * threads;

		atomic_long_set(&made, atomic_long_read(&ctors) - atomic_long_read(&failed));
		atomic_long_set(&found, calls - atomic_long_read(&ctors));
		atomic_long_set(&freed, atomic_long_read(&dtors));
	}
	pr_info("made=%ld found=%ld failed=%ld freed=%ld answers=%ld nothings=%ld ctors=%ld dtors=%ld ns=%llu\n",
		atomic_long_read(&made), atomic_long_read(&found), atomic_long_read(&failed),
		atomic_long_read(&freed), atomic_long_read(&answers), atomic_long_read(&nothings),
		atomic_long_read(&ctors), atomic_long_read(&dtors), ns);
}

static int __init shadow_load_init(void)
{
	u64 began;
	ulong i;

	if (!threads || !live)
		return -EINVAL;
	objects = kvzalloc(max_t(size_t, (size_t)threads * live, SHARED), GFP_KERNEL);
	if (!objects)
		return -ENOMEM;
	atomic_set(&at_work, threads);
	began = ktime_get_ns();
	for (i = 0; i < threads; i++) {
		/* A thread that cannot be had has its share done here. */
		if (IS_ERR(kthread_run(work, (void *)i, "klp_shadow_load")))
			work((void *)i);
	}
	/* Not in one go: that would be reported as a hung task. */
	while (!wait_for_completion_timeout(&all_done, HZ))
		;
	if (race && !leave)
		klp_shadow_free_all(id, shadow_dtor);
	report(ktime_get_ns() - began);
	kvfree(objects);
	return 0;
}

static void __exit shadow_load_exit(void)
{
	klp_shadow_free_all(id, NULL);
}

module_init(shadow_load_init);
module_exit(shadow_load_exit);
MODULE_DESCRIPTION("Makes and frees shadow variables, for tests");
MODULE_LICENSE("GPL");
