//! Whether this machine runs on battery, as the system says it in files.

use std::path::Path;

/// Where Linux lists what a machine is supplied by, a folder each.
pub const SUPPLIES: &str = "/sys/class/power_supply";

/// Whether no mains is there and a battery of the machine itself is being emptied. What cannot be read is not there.
pub fn is_on_battery(supplies: &Path) -> bool {
    let Ok(all) = std::fs::read_dir(supplies) else { return false };
    let mut is_emptied = false;
    for supply in all.flatten() {
        let says = |file: &str| {
            let text = std::fs::read_to_string(supply.path().join(file)).unwrap_or_default();
            text.trim().to_owned()
        };
        // The battery of a mouse says nothing of the machine.
        if says("scope") == "Device" {
            continue;
        }
        match &says("type")[..] {
            "Battery" => is_emptied |= says("status") == "Discharging",
            "UPS" => {}
            _ if says("online") == "1" => return false,
            _ => {}
        }
    }
    is_emptied
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Supplies as `name/file=text`.
    fn check(files: &[&str], expected: bool) {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let (path, text) = file.split_once('=').unwrap();
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
        }
        assert_eq!(is_on_battery(folder.path()), expected, "{files:?}");
    }

    #[test]
    fn a_laptop_on_its_battery_and_everything_else() {
        let battery = ["BAT0/type=Battery", "BAT0/status=Discharging"];
        check(&battery, true);
        check(&[&battery[..], &["AC/type=Mains", "AC/online=0"]].concat(), true);
        check(&[&battery[..], &["AC/type=Mains", "AC/online=1"]].concat(), false);
        check(&[&battery[..], &["C1/type=USB", "C1/online=1"]].concat(), false);
        check(&[&battery[..], &["BAT0/scope=Device"]].concat(), false);
        check(&["BAT0/type=Battery", "BAT0/status=Charging"], false);
        check(&["BAT0/type=Battery", "BAT0/status=Full"], false);
        check(&["BAT0/type=Battery"], false);
        check(&["UPS/type=UPS", "UPS/online=0"], false);
        check(&[], false);
        assert!(!is_on_battery(Path::new("/nowhere")));
    }
}
