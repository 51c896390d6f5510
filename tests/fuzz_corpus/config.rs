//! A configuration file: read, checked, written, read again.

use etherws::daemon::apply::Running;
use etherws::daemon::{Config, read, save};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.lines().count() + 1;
    let layer = match read::parse("f", text) {
        Ok(layer) => layer,
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                let place: Vec<_> = error.splitn(4, ':').collect();
                let ["f", line, column, why] = place[..] else { panic!("no place: {error}") };
                assert!((1..=lines).contains(&line.parse().expect("a line")), "{error}, of {lines}");
                assert!(column.parse::<usize>().expect("a column") >= 1 && why.len() > 1, "{error}");
            }
            return;
        }
    };
    let config = match layer.resolve() {
        Ok(config) => config,
        Err(problems) => {
            assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.is_usage()));
            return;
        }
    };
    // A switch that runs as configured is saved as it was configured, over the same file and into a new one.
    for existing in [Some(text), None] {
        let saved = save::render("f", existing, &config, &running(&config)).expect("it can be saved");
        let again = read::parse("f", &saved).and_then(|layer| {
            layer.resolve().map_err(|problems| problems.iter().map(ToString::to_string).collect())
        });
        let again = again.unwrap_or_else(|errors| panic!("{errors:?}\n{}", *saved));
        assert_eq!((&again.switch, &again.log), (&config.switch, &config.log), "{}", *saved);
        assert_eq!((again.door, again.ports), (config.door.clone(), config.ports.clone()), "{}", *saved);
    }
}

fn running(config: &Config) -> Vec<Running> {
    let named = |(number, spec): (u32, &etherws::port::PortSpec)| {
        let name = spec.name.clone().unwrap_or_else(|| spec.target.clone());
        Running { number, name, spec: spec.clone() }
    };
    (1..).zip(&config.ports).map(named).collect()
}
