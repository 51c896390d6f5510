//! The HTTP listeners over real sockets: what they refuse, by the numbers of the bad inputs, and what comes
//! through the door when they do not. Links are taken by the test instead of the switch.

mod control;
mod data;
mod harness;
mod life;
