//! A switch that ends and says so before it closes its links, by a PING that every peer may answer as any other. Who dialled
//! it makes a new connection meanwhile, and takes leave of the old one when that works ([`super::Takeover::Moved`]).

use tokio::sync::Notify;

/// What the PING carries.
pub const LEAVING: &[u8] = b"etherws leaving";

/// What a session tells whoever dialled for it.
#[derive(Default)]
pub struct News {
    /// It has taken its place.
    pub placed: Notify,
    /// The far end leaves; however often that is said, it is told once.
    pub leaving: Notify,
}
