//! Scenarios over several stores in one thread. The names of race tests are those of REGIONS §10.

mod harness;
mod values;

mod basics;
mod counts;
mod damage;
mod digests;
mod durable;
mod elsewhere;
mod fetch;
mod formats;
mod liars;
mod life;
mod load;
mod membership;
mod merge_apply;
mod merge_snapshots;
mod merges;
mod own_splits;
mod pledges;
mod reads;
mod records;
mod restart;
mod routing;
mod scripts;
mod slots;
mod snapshots;
mod splits;
mod transfers;
mod verify;
