//! Configuration, start, signals and systemd.

pub mod config;
