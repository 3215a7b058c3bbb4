//! The `twinkeep` command as the end-to-end tests start it: the same library, with planted bugs and small units
//! compiled in, which the environment chooses.

use std::process::ExitCode;
use twinkeep_engine::zoo::{BUGS, plant};
use twinkeep_tests::{fire, lab};

fn main() -> ExitCode {
    if std::env::var_os(fire::SMALL_VAR).is_some() {
        lab::shrink();
    }
    if let Ok(wanted) = std::env::var(fire::BUG_VAR) {
        let bug = BUGS.iter().map(|(bug, _)| *bug).find(|bug| *bug == wanted);
        plant(Some(bug.unwrap_or_else(|| panic!("{}: there is no bug {wanted}", fire::BUG_VAR))));
    }
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|verb| verb == fire::PURGE_VERB) {
        return fire::purge_main(args);
    }
    twinkeep_cli::main()
}
