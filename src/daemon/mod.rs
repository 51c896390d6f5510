//! Configuration, start, signals and systemd.
//!
//! * [`cli`]: the flags of `etherws`
//! * [`source`]: a TOML file read key by key, every mistake with its place; [`read`]: ours, with the rules
//!   of [`check`]; [`limits`]: a table of it
//! * [`config`]: file and flags merged and checked: one [`Config`]
//! * [`run`]: start, signals, the end; [`origin`]: where the configuration is; [`detach`]: `--daemon`;
//!   [`watchdog`]: who feeds it; [`logs`]: where log lines go
//! * [`sandbox`]: what the running daemon may do, and as whom; [`self_test`]: whether that is so
//! * [`apply`]: the difference between two configurations, applied to a running switch
//! * [`handover`]: what is left to the switch that is started in place of this one
//! * [`diagnose`]: what it knows of itself
//! * [`save`]: the running state written back
//! * [`prof`]: the profiler without a viewer: SIGUSR2, `--prof-dump`

pub mod apply;
pub mod check;
pub mod cli;
pub mod config;
pub mod detach;
pub mod diagnose;
pub mod handover;
pub mod limits;
pub mod logs;
pub mod origin;
pub mod prof;
pub mod read;
pub mod run;
pub mod sandbox;
pub mod save;
pub mod self_test;
pub mod source;
pub mod watchdog;

pub use config::Config;
