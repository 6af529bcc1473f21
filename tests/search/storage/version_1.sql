BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE autoprune_drivers (
	owner VARCHAR(255) NOT NULL, 
	study_id INTEGER NOT NULL, 
	host VARCHAR(255) NOT NULL, 
	pid INTEGER NOT NULL, 
	started_at DOUBLE NOT NULL, 
	seen_at DOUBLE NOT NULL, 
	left_at DOUBLE, 
	PRIMARY KEY (owner)
);
CREATE TABLE autoprune_leases (
	trial_id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	owner VARCHAR(255) NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	PRIMARY KEY (trial_id)
);
INSERT INTO "autoprune_leases" VALUES(3,1,'me',1060.0);
CREATE TABLE autoprune_phases (
	"key" VARCHAR(255) NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	owner VARCHAR(255) NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	place TEXT, 
	sha256 VARCHAR(64), 
	size_bytes BIGINT, 
	created_at DOUBLE NOT NULL, 
	used_at DOUBLE NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE autoprune_revisions (
	study_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	config TEXT NOT NULL, 
	note TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	PRIMARY KEY (study_id, number)
);
INSERT INTO "autoprune_revisions" VALUES(1,1,'{"n": 1}','first',1000.0);
CREATE TABLE autoprune_schema (
	version INTEGER NOT NULL, 
	created_at DOUBLE NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "autoprune_schema" VALUES(1,1000.0);
CREATE TABLE autoprune_studies (
	study_id INTEGER NOT NULL, 
	name VARCHAR(512) NOT NULL, 
	objectives TEXT NOT NULL, 
	identity TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	stop_requested_at DOUBLE, 
	PRIMARY KEY (study_id), 
	UNIQUE (name)
);
INSERT INTO "autoprune_studies" VALUES(1,'digits','{"accuracy": "maximize", "macs_ratio": "minimize"}','{"network": "resnet_digits"}',1000.0,NULL);
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'digits');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
INSERT INTO "study_directions" VALUES(2,'MINIMIZE',1,1);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["accuracy", "macs_ratio"]');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
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
INSERT INTO "trial_params" VALUES(1,1,'method',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["magnitude", "slimming"]}}');
INSERT INTO "trial_params" VALUES(2,1,'macs_target',1.0,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(3,2,'method',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["magnitude", "slimming"]}}');
INSERT INTO "trial_params" VALUES(4,2,'macs_target',0.5,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(5,3,'method',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["magnitude", "slimming"]}}');
INSERT INTO "trial_params" VALUES(6,3,'macs_target',0.6,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'autoprune:given','["point"]');
INSERT INTO "trial_system_attributes" VALUES(2,2,'autoprune:given','["point"]');
INSERT INTO "trial_system_attributes" VALUES(3,3,'autoprune:given','["point"]');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'point','{"method": "magnitude"}');
INSERT INTO "trial_user_attributes" VALUES(2,1,'key','"0"');
INSERT INTO "trial_user_attributes" VALUES(3,1,'attempt','0');
INSERT INTO "trial_user_attributes" VALUES(4,1,'owner','"me"');
INSERT INTO "trial_user_attributes" VALUES(5,1,'claimed_at','1000.0');
INSERT INTO "trial_user_attributes" VALUES(6,1,'revision','1');
INSERT INTO "trial_user_attributes" VALUES(7,1,'macs','1000');
INSERT INTO "trial_user_attributes" VALUES(8,1,'weights','"/a/0"');
INSERT INTO "trial_user_attributes" VALUES(9,2,'point','{"method": "slimming"}');
INSERT INTO "trial_user_attributes" VALUES(10,2,'key','"1"');
INSERT INTO "trial_user_attributes" VALUES(11,2,'attempt','0');
INSERT INTO "trial_user_attributes" VALUES(12,2,'owner','"me"');
INSERT INTO "trial_user_attributes" VALUES(13,2,'claimed_at','1000.0');
INSERT INTO "trial_user_attributes" VALUES(14,2,'revision','1');
INSERT INTO "trial_user_attributes" VALUES(15,2,'macs','500');
INSERT INTO "trial_user_attributes" VALUES(16,2,'weights','"/a/1"');
INSERT INTO "trial_user_attributes" VALUES(17,3,'point','{"method": "slimming"}');
INSERT INTO "trial_user_attributes" VALUES(18,3,'key','"2"');
INSERT INTO "trial_user_attributes" VALUES(19,3,'attempt','0');
INSERT INTO "trial_user_attributes" VALUES(20,3,'owner','"me"');
INSERT INTO "trial_user_attributes" VALUES(21,3,'claimed_at','1000.0');
INSERT INTO "trial_user_attributes" VALUES(22,3,'revision','1');
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
INSERT INTO "trial_values" VALUES(1,1,0,0.98,'FINITE');
INSERT INTO "trial_values" VALUES(2,1,1,1.0,'FINITE');
INSERT INTO "trial_values" VALUES(3,2,0,0.97,'FINITE');
INSERT INTO "trial_values" VALUES(4,2,1,0.5,'FINITE');
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
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-24 11:50:16.390888','2026-11-24 11:50:16.412740');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-24 11:50:16.415667','2026-11-24 11:50:16.427796');
INSERT INTO "trials" VALUES(3,2,1,'RUNNING','2026-11-24 11:50:16.430436',NULL);
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE INDEX ix_autoprune_leases_study_id ON autoprune_leases (study_id);
CREATE INDEX ix_autoprune_drivers_study_id ON autoprune_drivers (study_id);
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
