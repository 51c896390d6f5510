//! The methods: their names on the wire, and what each does in a line.

/// Every method there is. Dispatch, description and client all match on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    ListPort,
    AddPort,
    SetPort,
    DelPort,
    ListInterface,
    SetInterface,
    ListFdb,
    AddFdb,
    DelFdb,
    FlushFdb,
    ListStations,
    ListGroups,
    ListCounters,
    SaveConfig,
    ReloadConfig,
    GetVersion,
    Diagnose,
    StartProf,
    StopProf,
    GetProf,
    ResetProf,
    ShowProf,
    LeaseProf,
    SlowProf,
    CpuProf,
    TraceFrame,
    PingPort,
    Discover,
}

impl Method {
    pub const ALL: [Self; 28] = [
        Self::ListPort,
        Self::AddPort,
        Self::SetPort,
        Self::DelPort,
        Self::ListInterface,
        Self::SetInterface,
        Self::ListFdb,
        Self::AddFdb,
        Self::DelFdb,
        Self::FlushFdb,
        Self::ListStations,
        Self::ListGroups,
        Self::ListCounters,
        Self::SaveConfig,
        Self::ReloadConfig,
        Self::GetVersion,
        Self::Diagnose,
        Self::StartProf,
        Self::StopProf,
        Self::GetProf,
        Self::ResetProf,
        Self::ShowProf,
        Self::LeaseProf,
        Self::SlowProf,
        Self::CpuProf,
        Self::TraceFrame,
        Self::PingPort,
        Self::Discover,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ListPort => "etherws.control.listPort",
            Self::AddPort => "etherws.control.addPort",
            Self::SetPort => "etherws.control.setPort",
            Self::DelPort => "etherws.control.delPort",
            Self::ListInterface => "etherws.control.listInterface",
            Self::SetInterface => "etherws.control.setInterface",
            Self::ListFdb => "etherws.control.listFdb",
            Self::AddFdb => "etherws.control.addFdb",
            Self::DelFdb => "etherws.control.delFdb",
            Self::FlushFdb => "etherws.control.flushFdb",
            Self::ListStations => "etherws.control.listStations",
            Self::ListGroups => "etherws.control.listGroups",
            Self::ListCounters => "etherws.control.listCounters",
            Self::SaveConfig => "etherws.control.saveConfig",
            Self::ReloadConfig => "etherws.control.reloadConfig",
            Self::GetVersion => "etherws.control.getVersion",
            Self::Diagnose => "etherws.control.diagnose",
            Self::StartProf => "etherws.control.startProf",
            Self::StopProf => "etherws.control.stopProf",
            Self::GetProf => "etherws.control.getProf",
            Self::ResetProf => "etherws.control.resetProf",
            Self::ShowProf => "etherws.control.showProf",
            Self::LeaseProf => "etherws.control.leaseProf",
            Self::SlowProf => "etherws.control.slowProf",
            Self::CpuProf => "etherws.control.cpuProf",
            Self::TraceFrame => "etherws.control.traceFrame",
            Self::PingPort => "etherws.control.pingPort",
            Self::Discover => "rpc.discover",
        }
    }

    pub const fn summary(self) -> &'static str {
        match self {
            Self::ListPort => "The ports, in number order",
            Self::AddPort => "Adds a TAP, network device, client link or qemu port; the entry made",
            Self::SetPort => {
                "Changes a port, and the machines of a qemu port that listens; the entry after the change"
            }
            Self::DelPort => {
                "Deletes a port, and the machines of a qemu port that listens; the entry as it was"
            }
            Self::ListInterface => "The interfaces of TAP and network device ports",
            Self::SetInterface => {
                "Sets addresses, MTU or MAC of a TAP or network device; the entry after the change"
            }
            Self::ListFdb => "The forwarding database",
            Self::AddFdb => "Adds a static entry; the entry made",
            Self::DelFdb => "Deletes an entry; the entry as it was",
            Self::FlushFdb => "Forgets the learned entries of one port or of all; how many",
            Self::ListStations => "The stations of the forwarding database, with their IP addresses",
            Self::ListGroups => {
                "The multicast groups that somebody wants, and where; who routes and who asks"
            }
            Self::ListCounters => "Counters and drop reasons of every port and of the switch (port 0)",
            Self::SaveConfig => "Writes the running state to the configuration file or to another; which",
            Self::ReloadConfig => "Applies the configuration file's differences; what changed",
            Self::GetVersion => "Name and version of the program",
            Self::Diagnose => "What the switch knows of where it runs, for `etherctl doctor` to judge",
            Self::StartProf => "Raises the profiler's level until stopProf; the state after it",
            Self::StopProf => "Takes the profiler's level back to what the daemon was started with",
            Self::GetProf => "The profiler's level, and who holds it up",
            Self::ResetProf => {
                "Counts from now on: the zero of showProf and slowProf, writers go on undisturbed"
            }
            Self::ShowProf => "What frames cost: counters of every stage",
            Self::LeaseProf => "A profiler level for as long as it is renewed",
            Self::SlowProf => "The slowest whole frames that were traced",
            Self::CpuProf => "Function stacks of the daemon, sampled by CPU time",
            Self::TraceFrame => "What the switch would do with a frame, and why; nothing is sent or learned",
            Self::PingPort => "Measures the round trip of a port's link; no frame goes anywhere",
            Self::Discover => "This description, in OpenRPC",
        }
    }
}
