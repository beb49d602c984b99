//! A set that mostly has one member.

use rpds::RedBlackTreeSetSync;

/// A set of which copies share what they have in common. One member alone takes no room of its own: of the sets that thousands of secrets and TLS options
/// have, nearly all are such.
#[derive(Clone, Debug)]
pub enum Few<T: Ord> {
    /// The empty set.
    None,
    /// This alone.
    One(T),
    /// Any number.
    Many(RedBlackTreeSetSync<T>),
}

impl<T: Ord + Clone> Few<T> {
    /// Puts it in, if it is not there.
    pub fn insert(&mut self, value: T) {
        match self {
            Few::None => *self = Few::One(value),
            Few::One(known) if *known == value => {}
            Few::One(known) => *self = Few::Many(RedBlackTreeSetSync::new_sync().insert(known.clone()).insert(value)),
            Few::Many(all) => all.insert_mut(value),
        }
    }

    /// Takes it out, if it is there.
    pub fn remove(&mut self, value: &T) {
        match self {
            Few::One(known) if known == value => *self = Few::None,
            Few::None | Few::One(_) => {}
            Few::Many(all) => drop(all.remove_mut(value)),
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// The least.
    pub fn first(&self) -> Option<&T> {
        self.iter().next()
    }

    /// What is in it, the least first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let (one, many) = match self {
            Few::None => (None, None),
            Few::One(value) => (Some(value), None),
            Few::Many(all) => (None, Some(all)),
        };
        one.into_iter().chain(many.into_iter().flat_map(|all| all.iter()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn is_a_set() {
        // Every way to put in and take out three numbers in six steps.
        for steps in 0..6_u32.pow(6) {
            let (mut few, mut set) = (Few::None, BTreeSet::new());
            let mut left = steps;
            for _ in 0..6 {
                let (number, put) = (left % 3, left % 6 < 3);
                left /= 6;
                if put {
                    few.insert(number);
                    set.insert(number);
                } else {
                    few.remove(&number);
                    set.remove(&number);
                }
                assert!(few.iter().eq(set.iter()), "{few:?} {set:?}");
                assert_eq!((few.is_empty(), few.first()), (set.is_empty(), set.first()));
            }
        }
    }
}
