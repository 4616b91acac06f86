// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_shadow_cases.c - what the interface of shadow variables promises, case
 * by case
 *
 * Purpose: play one case at a time, check it as a caller can, and keep exact
 * counts of what was done. The case is written to a parameter, and what was
 * found is read from another; the write fails with EINVAL for a case that does
 * not exist, and with EBADE if a promise was broken.
 *
 *   alloc	allocate, get, free; zeroed, and NULL before and after
 *   double	allocate what is there already (the kernel warns)
 *   again	get_or_alloc what is there already
 *   race	threads get_or_alloc the same variables at the same time
 *   read	threads get one variable while it is made and freed again and again
 *   ctor	a constructor that fails
 *   dtor	destructors: of free, of free_all, of nothing
 *   free	one variable of an object goes, those of other ids stay
 *   free_all	variables of one id go, those of the others stay
 *   sizes	variables of several sizes, each zeroed and its own to the end
 *   load	count variables are made and freed, one by one
 *   leak	count variables are made and never freed
 *
 * Usage:
 *
 *   # insmod klp_shadow_cases.ko count=1000
 *   # echo load > /sys/module/klp_shadow_cases/parameters/play
 *   # cat /sys/module/klp_shadow_cases/parameters/{made,freed,found}
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/livepatch.h>
#include <linux/minmax.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/string.h>

#define MOST	16

/* The cases that need one id or two take the first ones. */
static unsigned long ids[MOST] = { 0x6b6c7101, 0x6b6c7102 };
static unsigned int nr_ids = 2;
module_param_array(ids, ulong, &nr_ids, 0444);
MODULE_PARM_DESC(ids, "ids of variables, two at least");

#define ID_ONE	ids[0]
#define ID_TWO	ids[1]

static unsigned int sizes[MOST] = { 8 };
static unsigned int nr_sizes = 1;
module_param_array(sizes, uint, &nr_sizes, 0444);
MODULE_PARM_DESC(sizes, "bytes of a variable, each, in the case sizes (default=8)");

static unsigned int count = 100;
module_param(count, uint, 0644);
MODULE_PARM_DESC(count, "objects that a case uses (default=100)");

static unsigned int threads = 4;
module_param(threads, uint, 0644);
MODULE_PARM_DESC(threads, "threads of the cases race and read (default=4)");

/* Variables, counted by this module as it makes and frees them. */
static unsigned int made;
module_param(made, uint, 0444);
MODULE_PARM_DESC(made, "variables that were made");

static unsigned int freed;
module_param(freed, uint, 0444);
MODULE_PARM_DESC(freed, "variables that were freed");

static unsigned int found;
module_param(found, uint, 0444);
MODULE_PARM_DESC(found, "get_or_alloc calls that found one");

static unsigned int refused;
module_param(refused, uint, 0444);
MODULE_PARM_DESC(refused, "calls that made none");

/* Constructor and destructor run under the lock of the shadow variables. */
static unsigned int ctors;
module_param(ctors, uint, 0444);
MODULE_PARM_DESC(ctors, "calls of constructors");

static unsigned int dtors;
module_param(dtors, uint, 0444);
MODULE_PARM_DESC(dtors, "calls of destructors");

static char broken[80] = "nothing";
module_param_string(broken, broken, sizeof(broken), 0444);
MODULE_PARM_DESC(broken, "the promise that was broken last");

#define promise(kept) \
	({ \
		bool __kept = (kept); \
		if (!__kept) \
			strscpy(broken, #kept, sizeof(broken)); \
		__kept ? 0 : -EBADE; \
	})

static int ctor(void *obj, void *shadow_data, void *ctor_data)
{
	ctors++;
	*(void **)shadow_data = obj;
	return ctor_data ? *(int *)ctor_data : 0;
}

static void dtor(void *obj, void *shadow_data)
{
	dtors++;
}

static void **make(void *obj, unsigned long id, klp_shadow_ctor_t ctor)
{
	void **var = klp_shadow_alloc(obj, id, sizeof(*var), GFP_KERNEL, ctor,
				      NULL);

	if (var)
		made++;
	else
		refused++;
	return var;
}

static void unmake(void *obj, unsigned long id, klp_shadow_dtor_t dtor)
{
	klp_shadow_free(obj, id, dtor);
	freed++;
}

static int play_alloc(char *objs)
{
	void **var;
	int err;

	err = promise(!klp_shadow_get(objs, ID_ONE));
	var = make(objs, ID_ONE, NULL);
	if (!var)
		return -ENOMEM;
	err = err ?: promise(!*var);
	err = err ?: promise(klp_shadow_get(objs, ID_ONE) == var);
	err = err ?: promise(!klp_shadow_get(objs, ID_TWO));
	unmake(objs, ID_ONE, NULL);
	return err ?: promise(!klp_shadow_get(objs, ID_ONE));
}

static int play_double(char *objs)
{
	void **var = make(objs, ID_ONE, ctor);
	int err;

	if (!var)
		return -ENOMEM;
	err = promise(!make(objs, ID_ONE, ctor));
	err = err ?: promise(klp_shadow_get(objs, ID_ONE) == var);
	unmake(objs, ID_ONE, NULL);
	return err;
}

static int play_again(char *objs)
{
	void **var = make(objs, ID_ONE, NULL);
	int err;

	if (!var)
		return -ENOMEM;
	err = promise(klp_shadow_get_or_alloc(objs, ID_ONE, sizeof(void *),
					      GFP_KERNEL, NULL, NULL) == var);
	found++;
	unmake(objs, ID_ONE, NULL);
	return err;
}

static int play_ctor(char *objs)
{
	unsigned int before = ctors;
	int err, failure = -EPERM;

	err = promise(!klp_shadow_alloc(objs, ID_ONE, sizeof(void *), GFP_KERNEL,
					ctor, &failure));
	refused++;
	err = err ?: promise(!klp_shadow_get_or_alloc(objs, ID_ONE,
						      sizeof(void *), GFP_KERNEL,
						      ctor, &failure));
	refused++;
	err = err ?: promise(ctors == before + 2);
	return err ?: promise(!klp_shadow_get(objs, ID_ONE));
}

static int play_dtor(char *objs)
{
	unsigned int before = dtors;
	int err;

	if (!make(objs, ID_ONE, ctor) || !make(objs + 1, ID_ONE, ctor) ||
	    !make(objs + 2, ID_ONE, ctor))
		return -ENOMEM;
	unmake(objs, ID_ONE, dtor);
	err = promise(dtors == before + 1);
	klp_shadow_free(objs, ID_ONE, dtor);
	err = err ?: promise(dtors == before + 1);
	unmake(objs + 1, ID_ONE, NULL);
	err = err ?: promise(dtors == before + 1);
	klp_shadow_free_all(ID_ONE, dtor);
	freed++;
	return err ?: promise(dtors == before + 2);
}

/* Make a variable of each id for each of the objects, with its id in it. */
static int make_all(char *objs, unsigned int nr_objs)
{
	unsigned int i, k;
	void **var;

	for (i = 0; i < nr_objs; i++) {
		for (k = 0; k < nr_ids; k++) {
			if (promise(!klp_shadow_get(objs + i, ids[k])))
				return -EBADE;
			var = make(objs + i, ids[k], ctor);
			if (!var)
				return -ENOMEM;
			*var = (void *)ids[k];
		}
	}
	return 0;
}

/* Of each object the variables of the first ids are gone, the others stand. */
static int only_gone(char *objs, unsigned int nr_objs, unsigned int gone)
{
	unsigned int i, k;
	int err = 0;
	void **var;

	for (i = 0; i < nr_objs; i++) {
		for (k = 0; k < nr_ids; k++) {
			var = klp_shadow_get(objs + i, ids[k]);
			if (k < gone)
				err = err ?: promise(!var);
			else
				err = err ?: promise(var && *var == (void *)ids[k]);
		}
	}
	return err;
}

static int play_free(char *objs)
{
	unsigned int before = dtors, k;
	int err;

	err = make_all(objs, 1);
	for (k = 0; k < nr_ids && !err; k++) {
		unmake(objs, ids[k], dtor);
		err = promise(dtors == before + k + 1);
		err = err ?: only_gone(objs, 1, k + 1);
	}
	return err;
}

static int play_free_all(char *objs)
{
	unsigned int before = dtors, k;
	int err;

	err = make_all(objs, count);
	for (k = 0; k < nr_ids && !err; k++) {
		klp_shadow_free_all(ids[k], dtor);
		freed += count;
		err = promise(dtors == before + (k + 1) * count);
		err = err ?: only_gone(objs, count, k + 1);
	}
	return err;
}

/* All at the same time: what is written to one must not show in another. */
static int play_sizes(char *objs)
{
	unsigned char *vars[MOST];
	unsigned int k;
	int err = 0;

	for (k = 0; k < nr_sizes && !err; k++) {
		vars[k] = klp_shadow_alloc(objs + k, ID_ONE, sizes[k], GFP_KERNEL,
					   NULL, NULL);
		if (!vars[k])
			return -ENOMEM;
		made++;
		err = promise(!memchr_inv(vars[k], 0, sizes[k]));
		memset(vars[k], k + 1, sizes[k]);
	}
	for (k = 0; k < nr_sizes && !err; k++) {
		err = promise(klp_shadow_get(objs + k, ID_ONE) == vars[k]);
		err = err ?: promise(!memchr_inv(vars[k], k + 1, sizes[k]));
	}
	klp_shadow_free_all(ID_ONE, dtor);
	freed += nr_sizes;
	return err;
}

static int play_load(char *objs)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		if (!make(objs + i, ID_ONE, ctor))
			return -ENOMEM;
	}
	for (i = 0; i < count; i++)
		unmake(objs + i, ID_ONE, dtor);
	return 0;
}

/* The objects are lost as well, so nobody gets their addresses again. */
static int play_leak(char *objs)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		if (!make(objs + i, ID_ONE, NULL))
			return -ENOMEM;
	}
	return 0;
}

/**
 * struct race - threads that want the same variables at the same time
 * @objs:	the objects, one byte each
 * @start:	what all threads wait for
 * @running:	how many threads are not done
 * @done:	completed by the last of them
 * @found:	get_or_alloc calls, less one for each object's maker
 * @split:	a thread got another pointer than the one that is registered
 */
struct race {
	char *objs;
	struct completion start;
	atomic_t running;
	struct completion done;
	atomic_t found;
	bool split;
};

static int racer(void *arg)
{
	struct race *race = arg;
	unsigned int i;
	void *var;

	wait_for_completion(&race->start);
	for (i = 0; i < count; i++) {
		var = klp_shadow_get_or_alloc(race->objs + i, ID_ONE,
					      sizeof(void *), GFP_KERNEL, ctor,
					      NULL);
		if (!var || var != klp_shadow_get(race->objs + i, ID_ONE))
			race->split = true;
		atomic_inc(&race->found);
	}
	if (atomic_dec_and_test(&race->running))
		complete(&race->done);
	return 0;
}

static int play_race(char *objs)
{
	struct race race = {
		.objs = objs,
		.running = ATOMIC_INIT(1),
	};
	unsigned int i, before = ctors;
	int err = 0;

	init_completion(&race.start);
	init_completion(&race.done);
	for (i = 0; i < threads && !err; i++) {
		atomic_inc(&race.running);
		err = PTR_ERR_OR_ZERO(kthread_run(racer, &race, "klp_racer/%u", i));
		if (err)
			atomic_dec(&race.running);
	}
	complete_all(&race.start);
	if (!atomic_dec_and_test(&race.running))
		wait_for_completion(&race.done);

	made += count;
	found += atomic_read(&race.found) - count;
	err = err ?: promise(!race.split);
	err = err ?: promise(ctors == before + count);
	klp_shadow_free_all(ID_ONE, dtor);
	freed += count;
	return err;
}

/**
 * struct readers - threads that get one variable while it comes and goes
 * @obj:	the object
 * @changes:	odd while the variable is being made or freed
 * @met:	gets that a change overlapped
 * @whole:	gets that none overlapped
 * @torn:	a get returned what was not the variable
 */
struct readers {
	char *obj;
	unsigned int changes;
	atomic_t met;
	atomic_t whole;
	bool torn;
};

/* The constructor leaves the object's address in a variable. */
static int reader(void *arg)
{
	struct readers *readers = arg;
	unsigned int before;
	void **var;

	while (!kthread_should_stop()) {
		before = READ_ONCE(readers->changes);
		rcu_read_lock();
		var = klp_shadow_get(readers->obj, ID_ONE);
		if (var && READ_ONCE(*var) != readers->obj)
			readers->torn = true;
		rcu_read_unlock();
		if (before & 1 || before != READ_ONCE(readers->changes))
			atomic_inc(&readers->met);
		else
			atomic_inc(&readers->whole);
		cond_resched();
	}
	return 0;
}

/* The variable stays until one has got it, from beginning to end. */
static int come_and_go(struct readers *readers)
{
	void **var;
	int before;

	WRITE_ONCE(readers->changes, readers->changes + 1);
	var = make(readers->obj, ID_ONE, ctor);
	WRITE_ONCE(readers->changes, readers->changes + 1);
	if (!var)
		return -ENOMEM;

	/* Two: the first may have begun before the variable was there. */
	before = atomic_read(&readers->whole);
	while (atomic_read(&readers->whole) - before < 2)
		cond_resched();
	WRITE_ONCE(readers->changes, readers->changes + 1);
	unmake(readers->obj, ID_ONE, dtor);
	WRITE_ONCE(readers->changes, readers->changes + 1);
	return 0;
}

#define MAX_READERS	16
#define MEETINGS	100

/* At least count times, and until the readers have met enough changes. */
static int play_read(char *objs)
{
	struct readers readers = {
		.obj = objs,
	};
	struct task_struct *tasks[MAX_READERS];
	unsigned int i, running, wanted;
	int err = 0;

	wanted = clamp_t(unsigned int, threads, 1, MAX_READERS);
	for (running = 0; running < wanted; running++) {
		tasks[running] = kthread_run(reader, &readers, "klp_reader/%u",
					     running);
		err = PTR_ERR_OR_ZERO(tasks[running]);
		if (err)
			break;
	}
	for (i = 0; !err && i < 100 * count; i++) {
		if (i >= count && atomic_read(&readers.met) >= MEETINGS)
			break;
		err = come_and_go(&readers);
	}
	while (running--)
		kthread_stop(tasks[running]);

	err = err ?: promise(!readers.torn);
	return err ?: promise(atomic_read(&readers.met) >= MEETINGS);
}

static const struct {
	const char *name;
	int (*play)(char *objs);
	bool keeps_objects;
} cases[] = {
	{ "alloc", play_alloc },
	{ "double", play_double },
	{ "again", play_again },
	{ "race", play_race },
	{ "read", play_read },
	{ "ctor", play_ctor },
	{ "dtor", play_dtor },
	{ "free", play_free },
	{ "free_all", play_free_all },
	{ "sizes", play_sizes },
	{ "load", play_load },
	{ "leak", play_leak, true },
};

static int play(const char *val, const struct kernel_param *kp)
{
	char *objs;
	int i, err;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		if (sysfs_streq(val, cases[i].name))
			break;
	}
	if (i == ARRAY_SIZE(cases) || !count || nr_ids < 2)
		return -EINVAL;

	objs = kzalloc(count + MOST, GFP_KERNEL);
	if (!objs)
		return -ENOMEM;

	err = cases[i].play(objs);
	if (!cases[i].keeps_objects)
		kfree(objs);
	pr_info("%s: %d; made %u freed %u found %u refused %u\n", cases[i].name,
		err, made, freed, found, refused);
	return err;
}

static const struct kernel_param_ops play_ops = {
	.set = play,
};

module_param_cb(play, &play_ops, NULL, 0200);
MODULE_PARM_DESC(play, "the case to play");

static int __init klp_shadow_cases_init(void)
{
	return 0;
}

static void __exit klp_shadow_cases_exit(void)
{
	if (made > freed)
		pr_info("leaves %u variables behind\n", made - freed);
}

module_init(klp_shadow_cases_init);
module_exit(klp_shadow_cases_exit);
MODULE_DESCRIPTION("What the interface of shadow variables promises");
MODULE_LICENSE("GPL");
