//! An office of real processes: backups, restores, machines and people that come and go.

#[path = "office/away.rs"]
mod away;
#[path = "office/host.rs"]
mod host;
#[path = "office/moves.rs"]
mod moves;
#[path = "office/people.rs"]
mod people;
#[path = "office/story.rs"]
mod story;
