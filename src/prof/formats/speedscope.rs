//! speedscope's own JSON (<https://www.speedscope.app/file-format-schema.json>): one `sampled` profile a
//! thread, nanoseconds for weights.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::super::view::Node;
use super::{Stack, Stacks};

const SCHEMA: &str = "https://www.speedscope.app/file-format-schema.json";

pub fn write(stacks: &Stacks) -> String {
    let mut frames: Vec<serde_json::Value> = Vec::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut threads: BTreeMap<&str, Vec<&Stack>> = BTreeMap::new();
    for stack in stacks.stacks.iter().filter(|stack| stack.ns() > 0) {
        threads.entry(&stack.thread).or_default().push(stack);
        for name in &stack.names {
            numbers.entry(name).or_insert_with(|| {
                frames.push(json!({"name": name}));
                frames.len() - 1
            });
        }
    }
    // It wants one profile at least.
    if threads.is_empty() {
        threads.insert("none", Vec::new());
    }
    let total = |stacks: &[&Stack]| stacks.iter().map(|stack| stack.ns()).fold(0, u64::saturating_add);
    let busiest = threads.values().enumerate().max_by_key(|(_, stacks)| total(stacks));
    let profiles: Vec<_> = threads
        .iter()
        .map(|(thread, stacks)| {
            let number = |name: &String| numbers.get(name.as_str()).copied().unwrap_or(0);
            let samples: Vec<Vec<usize>> =
                stacks.iter().map(|stack| stack.names.iter().map(number).collect()).collect();
            let weights: Vec<u64> = stacks.iter().map(|stack| stack.ns()).collect();
            json!({
                "type": "sampled",
                "name": thread,
                "unit": "nanoseconds",
                "startValue": 0,
                "endValue": total(stacks),
                "samples": samples,
                "weights": weights,
            })
        })
        .collect();
    let file = json!({
        "$schema": SCHEMA,
        "exporter": stacks.program,
        "name": stacks.title,
        "activeProfileIndex": busiest.map_or(0, |(index, _)| index),
        "shared": {"frames": frames},
        "profiles": profiles,
    });
    format!("{file}\n")
}

/// All its sampled profiles as one graph.
pub fn read(bytes: &[u8]) -> Result<Node, String> {
    #[derive(Deserialize)]
    struct File {
        shared: Shared,
        profiles: Vec<Profile>,
    }
    #[derive(Deserialize)]
    struct Shared {
        frames: Vec<Frame>,
    }
    #[derive(Deserialize)]
    struct Frame {
        name: String,
    }
    #[derive(Deserialize)]
    struct Profile {
        r#type: String,
        #[serde(default)]
        samples: Vec<Vec<usize>>,
        #[serde(default)]
        weights: Vec<f64>,
    }
    let file: File = serde_json::from_slice(bytes).map_err(|e| format!("no speedscope file: {e}"))?;
    let mut root = Node::new("all");
    for profile in &file.profiles {
        if profile.r#type != "sampled" {
            return Err(format!(
                "a speedscope profile of type {:?}; only \"sampled\" is read",
                profile.r#type
            ));
        }
        for (sample, weight) in profile.samples.iter().zip(&profile.weights) {
            let name = |number: &usize| file.shared.frames.get(*number).map(|frame| frame.name.as_str());
            let names: Option<Vec<_>> = sample.iter().map(name).collect();
            let names = names.ok_or("a speedscope sample names a frame that is not there")?;
            // Negative and not-a-number become 0.
            root.add(names, *weight as u64);
        }
    }
    root.sort();
    Ok(root)
}
