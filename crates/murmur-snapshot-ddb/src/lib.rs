#![doc = include_str!("../README.md")]

mod attributes;
mod builder;
mod cursor;
mod describe;
mod error;
mod filter;
mod handoff;
mod lookup;
mod parallel_scan;
mod request;
mod settings;
mod table;

pub use builder::ParallelScanBuilder;
pub use parallel_scan::ParallelScan;
