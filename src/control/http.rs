//! The HTTP listeners: settings, door.

pub use super::connection::OnLink;
pub use super::door::Door;
pub use super::rules::check_files;
pub use super::settings::{
    ControlSettings, ControlTcp, DoorSettings, Limits, ListenSettings, MetricsListen, TlsFiles, UserRule, Who,
};
pub use super::tls::{validity, validity_of};
