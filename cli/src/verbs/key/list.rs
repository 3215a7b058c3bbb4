//! `key list`.

use serde_json::json;

use super::{Way, WayKind, ways};
use crate::error::Code;
use crate::session::Run;
use crate::show;

pub fn run(run: &Run) -> anyhow::Result<Code> {
    let vault = run.open()?;
    let keyring = vault.keyring()?;
    let ways = ways(&keyring);
    if run.screen.json {
        for way in &ways {
            let (generation, refused_from) = match way.kind {
                WayKind::Device(generation, refused_from) => (Some(generation), refused_from),
                WayKind::Password | WayKind::Machine => (None, None),
            };
            let fields = json!({
                "id": way.hex(),
                "kind": way.word(),
                "label": way.label,
                "created": show::timestamp(way.created).to_string(),
                "used": Some(way.id) == vault.slot(),
                "generation": generation,
                "refused_from": refused_from,
            });
            run.screen.message("key", &fields)?;
        }
        return Ok(Code::Done);
    }
    let row = |way: &Way| {
        let kind = match way.kind {
            WayKind::Password => "password",
            WayKind::Machine => "machine key",
            WayKind::Device(..) => "write-only",
        };
        let note = match way.kind {
            WayKind::Device(_, Some(_)) => "removed",
            _ if Some(way.id) == vault.slot() => "opened the vault now",
            _ => "",
        };
        let label = show::escaped(way.label.as_bytes());
        let created = show::local(show::timestamp(way.created), &run.zone);
        vec![way.hex(), kind.to_owned(), label, created, note.to_owned()]
    };
    let table = show::table(&["ID", "Kind", "Label", "Created", ""], ways.iter().map(row).collect(), &[]);
    run.screen.write_stdout(table.as_bytes())?;
    let newest = keyring.pairs().len().saturating_sub(1);
    let drawn = keyring.pairs().last().map(|pair| show::local(show::timestamp(pair.created), &run.zone));
    run.screen.tell(&format!("key pair {newest}, drawn {}", drawn.unwrap_or_default()))?;
    Ok(Code::Done)
}
