//! Who and what there is in a run. Everything is an index; names are for the wire and the store.

use ringpost_core::ids::{Conversation, GroupId, UserId};

/// A conversation as the model knows it. Members of a pair are in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    Pair(usize, usize),
    Group(usize),
    /// A user's notices.
    Notices(usize),
    /// Notices to everybody.
    Everybody,
}

impl Place {
    pub fn pair(one: usize, other: usize) -> Place {
        Place::Pair(one.min(other), one.max(other))
    }
}

/// The names of users and groups, by index. Users are in the order of their names.
#[derive(Debug)]
pub struct Names {
    pub users: Vec<String>,
    pub groups: Vec<String>,
}

impl Names {
    /// They depend on the seed, because their homes do on them.
    pub fn new(users: usize, groups: usize, seed: u64) -> Names {
        let suffix = seed % 1_009;
        let user = |n: usize| format!("{}{suffix}", char::from(b'a' + n as u8));
        let group = |n: usize| format!("group-{n}-{suffix}");
        Names { users: (0..users).map(user).collect(), groups: (0..groups).map(group).collect() }
    }

    pub fn user_id(&self, user: usize) -> UserId {
        UserId::parse(&self.users[user]).expect("a valid id")
    }

    pub fn group_id(&self, group: usize) -> GroupId {
        GroupId::parse(&self.groups[group]).expect("a valid id")
    }

    pub fn user(&self, name: &str) -> usize {
        let found = self.users.iter().position(|user| user == name);
        found.unwrap_or_else(|| panic!("{name} is no user of this run"))
    }

    pub fn group(&self, name: &str) -> usize {
        let found = self.groups.iter().position(|group| group == name);
        found.unwrap_or_else(|| panic!("{name} is no group of this run"))
    }

    pub fn conversation(&self, place: Place) -> Conversation {
        match place {
            Place::Pair(low, high) => {
                Conversation::Private { low: self.user_id(low), high: self.user_id(high) }
            }
            Place::Group(group) => Conversation::Group(self.group_id(group)),
            Place::Notices(user) => Conversation::Notice(self.user_id(user)),
            Place::Everybody => Conversation::Broadcast,
        }
    }

    pub fn place(&self, conversation: &Conversation) -> Place {
        match conversation {
            Conversation::Private { low, high } => {
                Place::Pair(self.user(low.as_str()), self.user(high.as_str()))
            }
            Conversation::Group(group) => Place::Group(self.group(group.as_str())),
            Conversation::Notice(user) => Place::Notices(self.user(user.as_str())),
            Conversation::Broadcast => Place::Everybody,
        }
    }
}

/// A set of users, by index.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Set(pub u64);

impl Set {
    pub fn of(users: impl IntoIterator<Item = usize>) -> Set {
        Set(users.into_iter().fold(0, |set, user| set | 1 << user))
    }

    pub fn has(self, user: usize) -> bool {
        self.0 >> user & 1 == 1
    }

    pub fn and(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    pub fn without(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |user| self.has(*user))
    }
}
