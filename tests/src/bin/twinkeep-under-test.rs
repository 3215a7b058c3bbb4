//! The `twinkeep` command as the end-to-end tests start it: the same library, with planted bugs compiled in.

fn main() -> std::process::ExitCode {
    twinkeep_cli::main()
}
