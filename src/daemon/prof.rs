//! The profiler without a viewer: SIGUSR2 and `--prof-dump`.

use std::path::{Path, PathBuf};

use tracing::{error, info};

use crate::control::prof::names;
use crate::port::Ports;
use crate::prof::Want;
use crate::prof::formats;
use crate::prof::snapshot::Level;

/// SIGUSR2: stages are measured from now on, or no more; then what was found is written.
pub fn toggle(ports: &Ports, dump: Option<&Path>) {
    let prof = ports.prof();
    if prof.base().level < Level::Stage {
        prof.reset(names(ports));
        prof.set_base(Some(Want { level: Level::Stage, ..prof.base() }));
        info!("SIGUSR2: stages are measured; etherctl prof show tells, another SIGUSR2 ends it");
    } else {
        let configured = prof.configured();
        let below = Want { level: configured.level.min(Level::Count), ..configured };
        prof.set_base(Some(below));
        info!("SIGUSR2: stages are measured no more");
        write(ports, dump);
    }
}

/// Writes the profile since the last reset to the file that was named.
pub fn write(ports: &Ports, dump: Option<&Path>) {
    let Some(path) = dump else { return };
    let snapshot = ports.prof().since_reset(names(ports));
    let written = formats::Format::of(path)
        .and_then(|format| formats::write(&snapshot, format))
        .and_then(|bytes| std::fs::write(path, bytes).map_err(|e| e.to_string()));
    match written {
        Ok(()) => info!("profile written to {}", path.display()),
        Err(why) => error!("profile not written to {}: {why}", path.display()),
    }
}

/// Refuses what could not be written at the end, at the start.
pub fn check(dump: Option<&Path>) -> Result<Option<PathBuf>, String> {
    let Some(path) = dump else { return Ok(None) };
    let shown = path.display().to_string();
    formats::Format::of(path).map_err(|why| format!("--prof-dump {shown}: {why}"))?;
    // Detached, the daemon works in another folder.
    std::path::absolute(path).map(Some).map_err(|e| format!("--prof-dump {shown}: {e}"))
}
