"""Where does what is held survive a crash? In SQLite or PostgreSQL, behind one `Store`."""

from cfbridge.store.store import Confirmed as Confirmed
from cfbridge.store.store import Deposed as Deposed
from cfbridge.store.store import Drafted as Drafted
from cfbridge.store.store import Revised as Revised
from cfbridge.store.store import Store as Store
from cfbridge.store.store import Stored as Stored
