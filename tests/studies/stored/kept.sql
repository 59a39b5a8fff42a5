BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'kept');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MINIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["FID"]');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'spec','{"format": 1, "name": "kept", "experiment": "quickstart", "base": {"format": 4, "experiment": "adhoc", "variant": "default", "seed": 0, "teacher": "digits-sana", "resolution": null, "teacher_guidance": null, "prompts": {"source": "digits", "column": null, "limit": null, "split": null, "revision": null, "streaming": false}, "data": null, "start": null, "generator": {"steps": 4, "noise": "fresh", "flow_shift": 1.0, "distilled_guidance": 1.0}, "method": {"density": "sid", "t_range": [0.0, 1.0], "guidance": {"train_fake": 1.0, "eval_fake": 1.0, "eval_teacher": 1.0}, "loss_scale": 100.0, "fake_score_updates": 1, "share_rollout": false, "sid_alpha": 1.0, "weighting": "1-t", "name": "sid"}, "training": {"kimg": 12.8, "batch_size": 128, "micro_batch_size": null, "optimizers": {"generator": {"lr": 0.0005, "beta1": 0.0, "beta2": 0.999, "eps": 1e-08}, "fake_score": {"lr": 0.0005, "beta1": 0.0, "beta2": 0.999, "eps": 1e-08}}, "ema_halflife_kimg": 4.4, "ema_rampup": 0.25, "precision": "fp32", "gradient_checkpointing": false, "compile": false, "shards": null, "sync_every_micro_batch": false, "lora": null, "max_nonfinite": 10, "stability": {"rollback": false, "max_rollbacks": 3, "lr_factor": 0.5, "window": 64, "loss_threshold": 10.0, "lag": 1.0}}, "schedule": {"log_kimg": 0.64, "evaluate_kimg": 3.2, "checkpoint_kimg": 6.4, "keep_checkpoints": 2}, "evaluation": {"reference": "digits", "metrics": ["fid", "alignment"], "primary": null, "prompts": null, "shown": ["a handwritten zero", "the digit 1", "a photo of the number 2", "a scan of the numeral three", "four written by hand", "number five in white ink", "a handwritten six", "the digit 7", "a photo of the number 8", "a scan of the numeral nine"], "seeds_per_prompt": 4, "samples": 2000, "seed": null, "fresh_seeds": 2, "batch_size": 250, "precision": "fp32", "weights": {}, "stock_steps": [], "stock_guidance": null, "teacher_steps": [50, 4], "student_steps": null, "cfg_scale": 1.0, "teacher_flow_shift": 1.0}}, "space": [["method.sid_alpha", {"kind": "real", "low": 0.8, "high": 1.4, "log": false, "when": {}}], ["generator.noise", {"kind": "choice", "values": ["fresh", "ddim"], "when": {}}]], "settings": {"objectives": ["fid"], "sampler": "tpe", "pruner": "hyperband", "seeds": [0], "sampler_seed": 0, "retries": 1, "heartbeat_s": 1, "grace_s": 2}}');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_heartbeats" VALUES(1,1,'2026-11-30 20:01:33');
INSERT INTO "trial_heartbeats" VALUES(2,2,'2026-11-30 20:01:34');
INSERT INTO "trial_heartbeats" VALUES(3,3,'2026-11-30 20:01:35');
INSERT INTO "trial_heartbeats" VALUES(4,4,'2026-11-30 20:01:35');
INSERT INTO "trial_heartbeats" VALUES(5,9,'2026-11-30 20:01:36');
INSERT INTO "trial_heartbeats" VALUES(6,5,'2026-11-30 20:01:36');
INSERT INTO "trial_heartbeats" VALUES(7,10,'2026-11-30 20:01:37');
INSERT INTO "trial_heartbeats" VALUES(8,6,'2026-11-29 20:01:37.000000');
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_intermediate_values" VALUES(1,1,6400,3.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,3,6400,4.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,4,6400,3.5,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(4,9,6400,3.5,'FINITE');
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'method.sid_alpha',1.25,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.8, "high": 1.4, "log": false}}');
INSERT INTO "trial_params" VALUES(2,1,'generator.noise',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["fresh", "ddim"]}}');
INSERT INTO "trial_params" VALUES(3,2,'method.sid_alpha',1.00903856144327730426e+00,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.8, "high": 1.4, "log": false}}');
INSERT INTO "trial_params" VALUES(4,2,'generator.noise',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["fresh", "ddim"]}}');
INSERT INTO "trial_params" VALUES(5,3,'method.sid_alpha',8.28708916768992609469e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.8, "high": 1.4, "log": false}}');
INSERT INTO "trial_params" VALUES(6,3,'generator.noise',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["fresh", "ddim"]}}');
INSERT INTO "trial_params" VALUES(7,4,'method.sid_alpha',1.36042705888117665402e+00,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.8, "high": 1.4, "log": false}}');
INSERT INTO "trial_params" VALUES(8,4,'generator.noise',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["fresh", "ddim"]}}');
INSERT INTO "trial_params" VALUES(9,9,'method.sid_alpha',1.36042705888117665402e+00,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.8, "high": 1.4, "log": false}}');
INSERT INTO "trial_params" VALUES(10,9,'generator.noise',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["fresh", "ddim"]}}');
INSERT INTO "trial_params" VALUES(11,5,'method.sid_alpha',1.08252967130250121741e+00,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.8, "high": 1.4, "log": false}}');
INSERT INTO "trial_params" VALUES(12,5,'generator.noise',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["fresh", "ddim"]}}');
INSERT INTO "trial_params" VALUES(13,10,'method.sid_alpha',1.08252967130250121741e+00,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.8, "high": 1.4, "log": false}}');
INSERT INTO "trial_params" VALUES(14,10,'generator.noise',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["fresh", "ddim"]}}');
INSERT INTO "trial_params" VALUES(15,6,'method.sid_alpha',1.08753880007989711664e+00,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.8, "high": 1.4, "log": false}}');
INSERT INTO "trial_params" VALUES(16,6,'generator.noise',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["fresh", "ddim"]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'fixed_params','{"method.sid_alpha": 1.25}');
INSERT INTO "trial_system_attributes" VALUES(2,2,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(3,3,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(4,4,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(5,5,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(6,6,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(7,7,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(8,8,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(9,1,'workbench:pace','{"heartbeat_s": 1, "grace_s": 2}');
INSERT INTO "trial_system_attributes" VALUES(10,1,'workbench:by','"c5b2740b991e47579c11db85d36a562b"');
INSERT INTO "trial_system_attributes" VALUES(11,2,'workbench:pace','{"heartbeat_s": 1, "grace_s": 2}');
INSERT INTO "trial_system_attributes" VALUES(12,2,'workbench:by','"12def5a309724aa5900393c61ad5f199"');
INSERT INTO "trial_system_attributes" VALUES(13,3,'workbench:pace','{"heartbeat_s": 1, "grace_s": 2}');
INSERT INTO "trial_system_attributes" VALUES(14,3,'workbench:by','"6edab6ee478b4f85ab572fbfdd6efdff"');
INSERT INTO "trial_system_attributes" VALUES(15,4,'workbench:pace','{"heartbeat_s": 1, "grace_s": 2}');
INSERT INTO "trial_system_attributes" VALUES(16,4,'workbench:by','"2f56d62ce9a24944a160d74fe609d8c8"');
INSERT INTO "trial_system_attributes" VALUES(17,9,'failed_trial','3');
INSERT INTO "trial_system_attributes" VALUES(18,9,'retry_history','[3]');
INSERT INTO "trial_system_attributes" VALUES(19,9,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(20,9,'workbench:by','"2a89ffda8378430cbf5c3da797ee16db"');
INSERT INTO "trial_system_attributes" VALUES(21,9,'workbench:pace','{"heartbeat_s": 1, "grace_s": 2}');
INSERT INTO "trial_system_attributes" VALUES(22,5,'workbench:pace','{"heartbeat_s": 1, "grace_s": 2}');
INSERT INTO "trial_system_attributes" VALUES(23,5,'workbench:by','"2c623e5d96ab46bfb93ce87b86aedf92"');
INSERT INTO "trial_system_attributes" VALUES(24,10,'failed_trial','4');
INSERT INTO "trial_system_attributes" VALUES(25,10,'retry_history','[4]');
INSERT INTO "trial_system_attributes" VALUES(26,10,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(27,10,'workbench:by','"1daa12835a40451eb36945b66d33d1e9"');
INSERT INTO "trial_system_attributes" VALUES(28,10,'workbench:pace','{"heartbeat_s": 1, "grace_s": 2}');
INSERT INTO "trial_system_attributes" VALUES(29,6,'workbench:pace','{"heartbeat_s": 1, "grace_s": 2}');
INSERT INTO "trial_system_attributes" VALUES(30,6,'workbench:by','"c2862fad462949f79fe6e7d4737a420d"');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'worker','"old:1"');
INSERT INTO "trial_user_attributes" VALUES(2,1,'fid','2.5');
INSERT INTO "trial_user_attributes" VALUES(3,1,'runs','["study-kept/trial0-seed0-abc"]');
INSERT INTO "trial_user_attributes" VALUES(4,2,'worker','"old:1"');
INSERT INTO "trial_user_attributes" VALUES(5,2,'error','"it was NaN"');
INSERT INTO "trial_user_attributes" VALUES(6,3,'worker','"old:1"');
INSERT INTO "trial_user_attributes" VALUES(7,4,'worker','"old:1"');
INSERT INTO "trial_user_attributes" VALUES(8,9,'worker','"old:1"');
INSERT INTO "trial_user_attributes" VALUES(9,9,'fid','1.5');
INSERT INTO "trial_user_attributes" VALUES(10,5,'worker','"old:1"');
INSERT INTO "trial_user_attributes" VALUES(11,10,'worker','"old:1"');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,2.5,'FINITE');
INSERT INTO "trial_values" VALUES(2,3,0,4.0,'FINITE');
INSERT INTO "trial_values" VALUES(3,9,0,1.5,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-30 20:01:33.707413','2026-11-30 20:01:34.240762');
INSERT INTO "trials" VALUES(2,1,1,'FAIL','2026-11-30 20:01:34.662987','2026-11-30 20:01:35.016702');
INSERT INTO "trials" VALUES(3,2,1,'PRUNED','2026-11-30 20:01:35.229330','2026-11-30 20:01:35.400080');
INSERT INTO "trials" VALUES(4,3,1,'FAIL','2026-11-30 20:01:35.490465','2026-11-30 20:01:35.679740');
INSERT INTO "trials" VALUES(5,4,1,'FAIL','2026-11-30 20:01:36.669696','2026-11-30 20:01:36.831232');
INSERT INTO "trials" VALUES(6,5,1,'RUNNING','2026-11-30 20:01:37.080105',NULL);
INSERT INTO "trials" VALUES(7,6,1,'WAITING',NULL,NULL);
INSERT INTO "trials" VALUES(8,7,1,'WAITING',NULL,NULL);
INSERT INTO "trials" VALUES(9,8,1,'COMPLETE','2026-11-30 20:01:36.421644','2026-11-30 20:01:36.528899');
INSERT INTO "trials" VALUES(10,9,1,'WAITING','2026-11-30 20:01:37.002310',NULL);
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
