//! What a seed switches on (*swarm testing*): drawing everything in every run would cover little,
//! because faults hide each other. A profile leaves most of them out and does the rest often.

use crate::random::Random;

/// What the workload can do next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    Private,
    Group,
    Resend,
    Revoke,
    Acknowledge,
    Connect,
    NewDevice,
    Cut,
    Logout,
    CheckOffline,
    Garbage,
    Members,
    Alias,
    CreateGroup,
    Dissolve,
    Post,
    Later,
    Notice,
    NoticeToAll,
    Read,
    Block,
    Friends,
    Ban,
    Hide,
    Kick,
    StallReader,
    StallCommits,
    StallShard,
    StallLink,
    FailCommit,
    Crash,
    Clock,
    Space,
    Wait,
    Look,
}

/// How a run is.
#[derive(Clone, Debug)]
pub struct Profile {
    pub users: usize,
    /// Of them, those that are created by their first connection.
    pub late_users: usize,
    pub groups: usize,
    pub shards: u16,
    pub steps: u32,
    /// What is switched on, and how often it happens.
    pub weights: Vec<(Step, u32)>,
    /// Of the messages that a client gets, acknowledged at once.
    pub acks_percent: u64,
    /// Of the acknowledgements, sent twice.
    pub acks_again_percent: u64,
    /// Loads that memory does not answer.
    pub cold_percent: u64,
    /// Of those, read long before the answer comes.
    pub early_reads_percent: u64,
    /// The longest times: of a turn, a commit, a hop between shards, a read, a way to a client.
    pub turn_us: u64,
    pub commit_us: u64,
    pub mesh_us: u64,
    pub load_us: u64,
    pub net_us: u64,
    /// The longest pause between two steps.
    pub pause_us: u64,
    /// Messages that a client sends in one go, at most.
    pub burst: u64,
    /// Bytes that a message is filled up with, at most.
    pub padding: u64,
    /// Pause between two messages pushed at connect.
    pub gap_ms: u64,
    pub ack_is_read: bool,
    /// Client ids that are no xids.
    pub plain_ids_percent: u64,
}

impl Profile {
    pub fn draw(random: &mut Random) -> Profile {
        let users = random.range(2, 6) as usize;
        let groups = random.range(0, 3) as usize;
        let us = |random: &mut Random, of: &[u64]| *random.pick(of);
        let mut profile = Profile {
            users,
            late_users: if random.percent(30) { random.index(users - 1) } else { 0 },
            groups,
            shards: random.range(1, 3) as u16,
            steps: random.range(60, 300) as u32,
            weights: Vec::new(),
            acks_percent: *random.pick(&[100, 95, 80, 50, 10]),
            acks_again_percent: *random.pick(&[0, 0, 10]),
            cold_percent: *random.pick(&[0, 20, 60, 100]),
            early_reads_percent: *random.pick(&[0, 20, 50]),
            turn_us: us(random, &[0, 50, 500, 5_000]),
            commit_us: us(random, &[100, 1_000, 20_000, 300_000]),
            mesh_us: us(random, &[10, 100, 2_000, 50_000]),
            load_us: us(random, &[50, 1_000, 30_000]),
            net_us: us(random, &[100, 2_000, 50_000]),
            pause_us: us(random, &[200, 5_000, 60_000, 400_000]),
            burst: *random.pick(&[1, 2, 4, 4, 40]),
            padding: *random.pick(&[0, 0, 0, 0, 40, 40, 400, 20_000, 60_000]),
            gap_ms: *random.pick(&[100, 100, 10, 0]),
            ack_is_read: random.percent(30),
            plain_ids_percent: *random.pick(&[0, 0, 20, 100]),
        };
        if profile.padding > 1_000 {
            profile.steps = profile.steps.min(120);
        }
        profile.draw_weights(random);
        profile
    }

    fn draw_weights(&mut self, random: &mut Random) {
        let mut on = |step: Step, percent: u64, weights: &[u32]| {
            if random.percent(percent) {
                let weight = *random.pick(weights);
                self.weights.push((step, weight));
            }
        };
        on(Step::Private, 90, &[10, 30, 60]);
        if self.groups > 0 {
            on(Step::Group, 90, &[10, 30, 60]);
            on(Step::Members, 70, &[2, 10, 25]);
            on(Step::Alias, 30, &[1, 5]);
            on(Step::CreateGroup, 40, &[1, 3]);
            on(Step::Dissolve, 20, &[1]);
        }
        on(Step::Resend, 60, &[2, 10]);
        on(Step::Revoke, 50, &[2, 10]);
        on(Step::Acknowledge, 100, &[5, 20]);
        on(Step::Connect, 100, &[10, 25]);
        on(Step::NewDevice, 60, &[1, 5]);
        on(Step::Cut, 80, &[2, 6, 15]);
        on(Step::Logout, 30, &[1, 4]);
        on(Step::CheckOffline, 50, &[1, 6]);
        on(Step::Garbage, 20, &[2]);
        on(Step::Post, 50, &[3, 15]);
        on(Step::Later, 45, &[3, 15]);
        on(Step::Notice, 45, &[2, 10]);
        on(Step::NoticeToAll, 45, &[2, 10]);
        on(Step::Read, 50, &[3, 10]);
        on(Step::Block, 30, &[2, 6]);
        on(Step::Friends, 30, &[2, 6]);
        on(Step::Ban, 25, &[1, 4]);
        on(Step::Hide, 25, &[2]);
        on(Step::Kick, 20, &[1, 4]);
        on(Step::StallReader, 40, &[2, 6]);
        on(Step::StallCommits, 40, &[1, 6]);
        on(Step::StallShard, 40, &[1, 6]);
        on(Step::StallLink, 40, &[1, 6]);
        on(Step::FailCommit, 15, &[1]);
        on(Step::Crash, 60, &[1, 3, 6]);
        on(Step::Clock, 30, &[1, 3]);
        on(Step::Space, 15, &[1, 3]);
        on(Step::Wait, 90, &[2, 8]);
        on(Step::Look, 50, &[1, 2]);
    }

    pub fn step(&self, random: &mut Random) -> Step {
        let total: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = random.below(u64::from(total)) as u32;
        for &(step, weight) in &self.weights {
            if at < weight {
                return step;
            }
            at -= weight;
        }
        unreachable!("`at` is below the sum")
    }
}
