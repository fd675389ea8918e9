//! Tasks of the Murmur workspace: demo, integration tests, checks.
fn main() {}
