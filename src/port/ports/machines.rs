//! Ports of virtual machines: a listener, and what comes in by it; or one that is dialled.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Instant;

use socket2::Socket;
use tokio::sync::oneshot;
use tracing::info;

use super::add::full;
use super::client::{Far, keep_connected, serve, vm_session};
use super::entry::{Entry, Life, Parts, State, Way};
use super::names::name_from;
use super::{PortError, Ports};
use crate::port::link::Link;
use crate::port::qemu::{Address, Listener};
use crate::port::spec::PortSpec;
use crate::port::throttle::{Throttle, pause};
use crate::switch::VlanRule;

/// Machines at one listener. Who reaches it is not asked who he is, and each costs what a link costs.
const MAX_MACHINES: usize = 256;

impl Ports {
    pub(super) async fn add_qemu(
        &self,
        number: u32,
        mut spec: PortSpec,
        vlan: VlanRule,
    ) -> Result<Arc<Entry>, PortError> {
        let mut address = Address::of(&spec.target, &spec.options).map_err(PortError::Invalid)?;
        if spec.options.connect {
            let entry = self.enter_qemu(number, address.to_string(), spec, vlan, State::Connecting)?;
            tokio::spawn(keep_connected(self.me.clone(), entry.clone(), Far::Qemu(address)));
            return Ok(entry);
        }
        let shown = address.to_string();
        let same = |entry: &&Arc<Entry>| entry.life().state == State::Listening && entry.target == shown;
        let taken = self.entries().values().find(same).map(|entry| entry.number);
        if let Some(taken) = taken {
            return Err(PortError::Invalid(format!("{shown} is port {taken} already")));
        }
        let listener = address.listen().await.map_err(PortError::Failed)?;
        if let (Address::Tcp { port: port @ 0, .. }, Some(bound)) = (&mut address, listener.bound()) {
            // What was chosen is what is shown and saved: nobody would find the way in otherwise.
            *port = bound.port();
            spec.target = address.to_string();
        }
        let entry = self.enter_qemu(number, address.to_string(), spec, vlan, State::Listening)?;
        let (held, closed) = oneshot::channel();
        *entry.closed() = Some(closed);
        tokio::spawn(take_in(self.me.clone(), entry.clone(), listener, self.open.clone(), held));
        Ok(entry)
    }

    fn enter_qemu(
        &self,
        number: u32,
        target: String,
        spec: PortSpec,
        vlan: VlanRule,
        state: State,
    ) -> Result<Arc<Entry>, PortError> {
        let slot = self.fabric.switch.free_slot().ok_or_else(full)?;
        let way = Way::Link(Arc::new(Link::to_vm()));
        let life = Life { state, ..Life::default() };
        Ok(self.enter(
            slot,
            vlan,
            Parts { number, slot, target, spec, way, life, user: None, listener: None },
        ))
    }

    /// The ports that came in by a listener.
    pub(super) fn machines(&self, listener: &Entry) -> Vec<Arc<Entry>> {
        let number = Some(listener.number);
        self.entries().values().filter(|entry| entry.listener == number).cloned().collect()
    }

    /// Makes a port of a machine that came in: with its listener's settings, numbered behind its name.
    async fn take_in_one(&self, listener: &Entry, socket: Socket, peer: String) -> Result<(), PortError> {
        let _changing = self.changing.lock().await;
        let spec = listener.spec().clone();
        if listener.stop.borrow().is_some() {
            return Ok(());
        }
        if spec.shut {
            return Err(PortError::Failed("the port is shut".to_owned()));
        }
        if self.machines(listener).len() >= MAX_MACHINES {
            return Err(PortError::Failed(format!("{MAX_MACHINES} machines are there already")));
        }
        let slot = self.fabric.switch.free_slot().ok_or_else(full)?;
        let vlan = VlanRule::from_options(spec.access, spec.trunk.clone(), spec.native)
            .map_err(|rule| PortError::Failed(rule.to_string()))?;
        let name = self.named().numbered(&name_from(spec.name.as_deref().unwrap_or("qemu")), 1);
        let way = Way::Link(Arc::new(Link::to_vm()));
        let life = Life { state: State::Up, peer: Some(peer.clone()), connects: 1, ..Life::default() };
        let parts = Parts {
            number: 0,
            slot,
            target: listener.target.clone(),
            spec: PortSpec { name: Some(name), ..spec },
            way,
            life,
            user: None,
            listener: Some(listener.number),
        };
        let entry = self.enter(slot, vlan, parts);
        listener.life().connects += 1;
        let session = Box::pin(vm_session(self, &entry, socket).run());
        let told = self.arrivals.allow(Instant::now());
        if let Some(kept_back) = told {
            info!(
                port = entry.number,
                name = entry.name(),
                peer,
                kept_back,
                "virtual machine on {}",
                entry.target
            );
        }
        if let Some(ports) = self.me.upgrade() {
            tokio::spawn(async move {
                let weak = Arc::downgrade(&ports);
                let ended = serve(ports, session).await;
                if told.is_some() {
                    info!(port = entry.number, name = entry.name(), peer, "virtual machine gone: {ended}");
                }
                if let Some(ports) = weak.upgrade() {
                    let _changing = ports.changing.lock().await;
                    ports.leave(&entry);
                }
            });
        }
        Ok(())
    }
}

/// Takes in machines until the port is ended. `_held` and `_open` tell those who wait that the listener is closed.
async fn take_in(
    ports: Weak<Ports>,
    entry: Arc<Entry>,
    listener: Listener,
    _open: Arc<()>,
    _held: oneshot::Sender<Infallible>,
) {
    let trouble = Throttle::default();
    let refusals = Throttle::default();
    let all = async {
        loop {
            let accepted = listener.accept().await;
            let Some(ports) = ports.upgrade() else { return };
            match accepted {
                Ok((socket, peer)) => {
                    let refused = ports.take_in_one(&entry, socket, peer.clone()).await.err();
                    if let Some((why, kept_back)) = refused.zip(refusals.allow(Instant::now())) {
                        info!(port = entry.number, peer, kept_back, "virtual machine refused: {why}");
                    }
                }
                Err(e) => pause(&e, &trouble, ports.tally()).await,
            }
        }
    };
    tokio::select! {
        biased;
        () = entry.ended() => (),
        () = all => (),
    }
    drop(listener);
}
