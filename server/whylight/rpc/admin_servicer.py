"""AdminService: has models loaded, unloaded and reloaded, as the configuration says; knows no worker and no path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from whylight.engine.model_control import ModelControl
from whylight.engine.model_table import ModelChoice
from whylight.errors import InvalidInput, Unsupported
from whylight.rpc.catalog_servicer import find
from whylight.rpc.context import Context
from whylight.rpc.pages import page
from whylight.security import current_caller
from whylight.settings import ConfigurationError
from whylight.v1 import admin_pb2 as v1
from whylight.v1 import admin_pb2_grpc

log = logging.getLogger(__name__)


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """Answers AdminService. Raises typed errors; the interceptor makes statuses of them."""

    def __init__(self, control: ModelControl, configured: Callable[[], Mapping[str, ModelChoice]]) -> None:
        """Change the models of `control`; `configured` reads the configuration again, in a thread.

        It returns the models by name, or raises ConfigurationError.
        """
        self._control = control
        self._configured = configured

    async def ListModels(
        self, request: v1.AdminServiceListModelsRequest, context: Context
    ) -> v1.AdminServiceListModelsResponse:
        """List the models."""
        table = self._control.table
        statuses = [table.status(name) for name in sorted(table.served)]
        models, token = page(statuses, request.page_size, request.page_token, kind="models")
        return v1.AdminServiceListModelsResponse(models=models, next_page_token=token)

    async def LoadModel(
        self, request: v1.LoadModelRequest, context: Context
    ) -> AsyncGenerator[v1.LoadModelResponse, None]:
        """Load a model."""
        task = self._control.load(await self._choice(request.name, "load"))
        async with aclosing(self._told(request.name, task)) as statuses:
            async for status in statuses:
                yield v1.LoadModelResponse(model=status)

    async def UnloadModel(
        self, request: v1.UnloadModelRequest, context: Context
    ) -> AsyncGenerator[v1.UnloadModelResponse, None]:
        """Unload a model."""
        _check_name(request.name, "unload")
        find(map(self._control.table.status, self._control.table.served), request.name, kind="model", field="name")
        task = self._control.unload(request.name)
        async with aclosing(self._told(request.name, task)) as statuses:
            async for status in statuses:
                yield v1.UnloadModelResponse(model=status)

    async def ReloadModel(
        self, request: v1.ReloadModelRequest, context: Context
    ) -> AsyncGenerator[v1.ReloadModelResponse, None]:
        """Put a new version in the place of a loaded one."""
        task = self._control.reload(await self._choice(request.name, "reload"))
        async with aclosing(self._told(request.name, task)) as statuses:
            async for status in statuses:
                yield v1.ReloadModelResponse(model=status)

    async def _choice(self, name: str, verb: str) -> ModelChoice:
        """Return what the configuration says of a model now.

        Raises:
            InvalidInput: no name was given.
            NotFound: it says nothing of a model with this name.
            Unsupported: it cannot be read, or is wrong (CONFIGURATION_INVALID).
        """
        _check_name(name, verb)
        try:
            choices = await asyncio.to_thread(self._configured)
        except ConfigurationError as error:
            raise Unsupported(
                f"the configuration cannot be used, and nothing was changed: {error}", reason="CONFIGURATION_INVALID"
            ) from None
        find([v1.ModelStatus(name=known) for known in choices], name, kind="model", field="name")
        return choices[name]

    async def _told(self, name: str, change: asyncio.Task[None]) -> AsyncGenerator[v1.ModelStatus, None]:
        """Yield the status of a model whenever it changes, until a change of it has ended.

        Raises:
            WhylightError: the change failed.
        """
        told = None
        await asyncio.sleep(0)  # let it begin
        while True:
            ended, changed = change.done(), self._control.table.changed
            status = self._control.table.status(name)
            if ended and change.cancelled():
                raise self._control.closed_error()
            if ended:
                change.result()
            if status != told:
                yield status
                told = status
            if ended:
                return
            waiting = asyncio.ensure_future(changed.wait())
            try:
                await asyncio.wait((waiting, change), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()


def _check_name(name: str, verb: str) -> None:
    if not name:
        raise InvalidInput("which model?", field="name")
    log.info("%s asks to %s the model %r", current_caller().name, verb, name[:128])
