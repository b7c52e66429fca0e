//! The milter protocol, packet by packet and with miltertest(1).

mod play;

mod milter_conversations;
mod milter_large;
mod milter_limits;
mod milter_miltertest;
mod milter_properties;
