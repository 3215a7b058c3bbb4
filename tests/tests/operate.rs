//! Operating an office: what its services tell whoever looks after them.

#[path = "operate/health.rs"]
mod health;
#[path = "operate/machine.rs"]
mod machine;
#[path = "operate/stop.rs"]
mod stop;
#[path = "operate/systemd.rs"]
mod systemd;
