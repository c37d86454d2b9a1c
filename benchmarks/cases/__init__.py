"""The cases of `make bench`, by the name that --only takes."""

from cases.adopt import adopt
from cases.cold import beside_cold, cold_device
from cases.listing import listing
from cases.origin import join, miss
from cases.tail import fairness, tail
from cases.warm import warm, warm_tls
from cases.warm_origin import warm_origin
from cases.workers import memory, two_workers
from cases.write import put

CASES = {
    "warm": warm,
    "tail": tail,
    "fairness": fairness,
    "memory": memory,
    "two_workers": two_workers,
    "cold_device": cold_device,
    "beside_cold": beside_cold,
    "miss": miss,
    "join": join,
    "adopt": adopt,
    "put": put,
    "listing": listing,
    "warm_origin": warm_origin,
    "warm_tls": warm_tls,
}
