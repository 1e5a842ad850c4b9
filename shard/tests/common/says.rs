//! Which messages may leave at once and which vouch for something written: the same for every sink of the tests that has `now` and `park`.

macro_rules! says {
    () => {
        says! {
            heartbeat Heartbeat now;
            heartbeat_reply HeartbeatReply park;
            append_reply AppendReply park;
            timeout_now TimeoutNow now;
            read_index_request ReadIndexRequest now;
            read_index_reply ReadIndexReply now;
            term_query TermQuery now;
            term_report TermReport park;
        }
    };
    ($($method:ident $message:ident $how:ident;)*) => {
        $(fn $method(&mut self, to: logdrive_shard::Route, message: logdrive_shard::$message) {
            self.$how(to, Message::$message(message));
        })*

        fn vote_request(&mut self, to: logdrive_shard::Route, message: logdrive_shard::VoteRequest) {
            let is_rehearsal = message.pre_vote;
            let message = Message::VoteRequest(message);
            if is_rehearsal { self.now(to, message) } else { self.park(to, message) }
        }

        fn vote_reply(&mut self, to: logdrive_shard::Route, message: logdrive_shard::VoteReply) {
            let is_rehearsal = message.pre_vote;
            let message = Message::VoteReply(message);
            if is_rehearsal { self.now(to, message) } else { self.park(to, message) }
        }
    };
}

pub(crate) use says;
