//! The `twinkeep` command; all of it but the allocator stands in the library beside it.

mod allocator;

fn main() -> std::process::ExitCode {
    allocator::tune();
    twinkeep_cli::main()
}
