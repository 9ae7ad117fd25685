"""The descriptions of services from several descriptor pools, as reflection asks for them; knows no service."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection

Found = TypeVar("Found")

SERVICE = reflection.SERVICE_NAME


def enable_reflection(names: Iterable[str], server: grpc.aio.Server, *private: DescriptorPool) -> None:
    """Let clients ask for the descriptions of the named services, which `private` pools have or the default one."""
    pools: Any = Pools(*private, descriptor_pool.Default()) if private else None
    reflection.enable_server_reflection(names, server, pool=pools)


class Pools:
    """Several pools, asked in turn. Has what grpcio-reflection calls of a pool, which wants a single one.

    The first that knows a name says what it is: a private pool comes before the default one, into which any library of
    the process may have put the same name.
    """

    def __init__(self, *pools: DescriptorPool) -> None:
        self._pools = pools

    def FindFileByName(self, name: str) -> FileDescriptor:
        """Return a file.

        Raises:
            KeyError: there is none of this name.
        """
        return self._first(lambda pool: pool.FindFileByName(name))

    def FindFileContainingSymbol(self, name: str) -> FileDescriptor:
        """Return the file that has a service, a message or anything else of this name.

        Raises:
            KeyError: there is none.
        """
        return self._first(lambda pool: pool.FindFileContainingSymbol(name))

    def FindMessageTypeByName(self, name: str) -> Descriptor:
        """Return a message.

        Raises:
            KeyError: there is none of this name.
        """
        return self._first(lambda pool: pool.FindMessageTypeByName(name))

    def FindExtensionByNumber(self, message: Descriptor, number: int) -> FieldDescriptor:
        """Return an extension of a message, from the message's own pool.

        Raises:
            KeyError: there is none of this number.
        """
        return message.file.pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Descriptor) -> list[FieldDescriptor]:
        """Return the extensions of a message, from the message's own pool."""
        return message.file.pool.FindAllExtensions(message)

    def _first(self, find: Callable[[DescriptorPool], Found]) -> Found:
        for pool in self._pools[:-1]:
            try:
                return find(pool)
            except KeyError:
                continue
        return find(self._pools[-1])
