//! What the tests of Murmur share: servers, faults, emulators.
