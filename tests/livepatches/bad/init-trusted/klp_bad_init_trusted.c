// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_init_trusted.c - a livepatch that takes it that its target's init succeeds
 *
 * Purpose: change what klp_later.ko answers, and keep a record of the target from
 * pre-patch to post-unpatch.
 *
 * Fault: post-unpatch frees the record only of a target that has lived. One whose
 * init function fails has not: its record stays, and the next to come is refused.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/slab.h>
#include <linux/string.h>

struct record {
	bool lived;
};

static struct record *record;

static int pre_patch(struct klp_object *obj)
{
	if (record)
		return -EBUSY;
	record = kzalloc(sizeof(*record), GFP_KERNEL);
	if (!record)
		return -ENOMEM;
	record->lived = obj->mod->state == MODULE_STATE_LIVE;
	return 0;
}

static void post_unpatch(struct klp_object *obj)
{
	if (!record->lived)
		return;
	kfree(record);
	record = NULL;
}

static int module_event(struct notifier_block *nb, unsigned long event, void *data)
{
	struct module *mod = data;

	if (event == MODULE_STATE_LIVE && record && !strcmp(mod->name, "klp_later"))
		record->lived = true;
	return NOTIFY_OK;
}

static struct notifier_block module_nb = {
	.notifier_call = module_event,
};

static int livepatch_later_answer(int from)
{
	return from * 6;
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_later_answer",
		.new_func = livepatch_later_answer,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_later",
		.funcs = funcs,
		.callbacks = {
			.pre_patch = pre_patch,
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_init_trusted_init(void)
{
	int err;

	err = register_module_notifier(&module_nb);
	if (err)
		return err;
	err = klp_enable_patch(&patch);
	if (err)
		unregister_module_notifier(&module_nb);
	return err;
}

static void __exit klp_bad_init_trusted_exit(void)
{
	unregister_module_notifier(&module_nb);
}

module_init(klp_bad_init_trusted_init);
module_exit(klp_bad_init_trusted_exit);
MODULE_DESCRIPTION("Livepatch that takes it that its target's init succeeds");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
