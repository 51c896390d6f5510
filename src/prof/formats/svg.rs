//! A flame graph as a page of its own, with search and zoom: inferno draws it.

use inferno::flamegraph::{self, Options};

use super::{Stacks, folded};

pub fn write(stacks: &Stacks) -> Result<Vec<u8>, String> {
    let text = folded::write(&stacks.tree());
    if text.is_empty() {
        return Err("nothing was measured: there is nothing to draw".into());
    }
    let mut options = Options::default();
    options.title = stacks.title.clone();
    options.subtitle = (stacks.elapsed_ns > 0).then(|| format!("{:.3} s", stacks.elapsed_ns as f64 / 1e9));
    options.count_name = "ns".into();
    options.name_type = if stacks.period_ns > 0 { "Function:" } else { "Stage:" }.into();
    // The same stage has the same colour in every graph.
    options.deterministic = true;
    let mut page = Vec::new();
    flamegraph::from_lines(&mut options, text.lines(), &mut page).map_err(|e| format!("not drawn: {e}"))?;
    Ok(page)
}
